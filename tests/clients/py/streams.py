#!/usr/bin/env python3
"""What a service does with a stream, an object store and the services framework, with nats.py.

    streams.py --server URL [--as FILE]

Each step has a connection of its own, as the user of that name, whose password is its name, and
prints a line of JSON: {"step": NAME, "error": null}, or what went wrong. With a FILE, only its steps run,
each as a service: a list of {"step", "service", "seed_file"} in JSON.
"""

import argparse
import asyncio
import json

import nats
import nats.micro
from nats.js.api import ConsumerConfig

FILTER = "events.orders.>"
SIZE = 300_000
STEPS = {}


def step(function):
    STEPS[function.__name__] = function
    return function


@step
async def publish(_, js):
    await js.publish("events.orders.1", b"x")


@step
async def fetch(_, js):
    consumer = await js.pull_subscribe_bind("shipping", stream="EVENTS")
    first, second, third, fourth = await consumer.fetch(4, timeout=5)
    await first.ack()
    await second.ack_sync()
    await third.nak()
    await fourth.in_progress()
    await fourth.term()


@step
async def work(_, js):
    jobs = set()
    for _worker in range(2):
        worker = await js.pull_subscribe_bind("workers", stream="JOBS")
        [job] = await worker.fetch(1, timeout=5)
        await job.ack_sync()
        jobs.add(job.data)
    assert len(jobs) == 2, "one job came twice"


@step
async def subscribed(_, js):
    consumer = await js.pull_subscribe(FILTER, "shipping", stream="EVENTS")
    await (await consumer.fetch(1, timeout=5))[0].ack()


@step
async def found_by_subject(_, js):
    consumer = await js.pull_subscribe(FILTER, "shipping")
    await (await consumer.fetch(1, timeout=5))[0].ack()


@step
async def own_durable(_, js):
    consumer = await js.pull_subscribe(FILTER, "own", stream="EVENTS")
    await (await consumer.fetch(1, timeout=5))[0].ack()


@step
async def ordered(_, js):
    config = ConsumerConfig(name="named")
    consumer = await js.subscribe(FILTER, stream="EVENTS", ordered_consumer=True, config=config)
    for _ in range(3):
        await consumer.next_msg(5)


@step
async def ordered_unnamed(_, js):
    await js.subscribe(FILTER, stream="EVENTS", ordered_consumer=True)


@step
async def ephemeral(_, js):
    consumer = await js.pull_subscribe(FILTER, stream="EVENTS")
    await (await consumer.fetch(1, timeout=5))[0].ack()


@step
async def push(_, js):
    config = (await js.consumer_info("EVENTS", "pushed")).config
    consumer = await js.subscribe_bind(stream="EVENTS", config=config, consumer="pushed")
    await (await consumer.next_msg(5)).ack()


@step
async def direct_get(_, js):
    await js.get_last_msg("EVENTS", "events.orders.1", direct=True)


@step
async def store_put(_, js):
    invoices = await js.object_store("invoices")
    for _ in range(2):
        await invoices.put("a", bytes(SIZE))


@step
async def store_get(_, js):
    invoices = await js.object_store("invoices")
    assert len((await invoices.get("a")).data) == SIZE


@step
async def store_list(_, js):
    invoices = await js.object_store("invoices")
    assert await invoices.list()


@step
async def store_watch(_, js):
    invoices = await js.object_store("invoices")
    assert await (await invoices.watch()).updates(5)


@step
async def store_delete(_, js):
    invoices = await js.object_store("invoices")
    await invoices.delete("a")


@step
async def store_seal(_, js):
    invoices = await js.object_store("invoices")
    await invoices.seal()


@step
async def found(nc, _):
    service = await nats.micro.add_service(nc, name="quotes-api", version="1.0.0")

    async def answer(request):
        await request.respond(b"y")

    await service.add_endpoint(name="get", subject="quotes.get", handler=answer)
    await nc.flush()
    await nc.request("quotes.get", b"x", timeout=5)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--as", dest="services")
    arguments = parser.parse_args()

    async def complaint(_):
        pass  # The server's log has it, and the test reads that.

    logins = [(name, name, {"user": name, "password": name}) for name in STEPS]
    if arguments.services:
        with open(arguments.services, encoding="utf-8") as file:
            services = json.load(file)
        logins = [(s["step"], s["service"], {"nkeys_seed": s["seed_file"]}) for s in services]
    for name, service, login in logins:
        run = STEPS[name]
        nc = await nats.connect(
            arguments.server,
            **login,
            inbox_prefix=f"_INBOX.{service}".encode(),
            allow_reconnect=False,
            error_cb=complaint,
        )
        error = None
        try:
            await asyncio.wait_for(run(nc, nc.jetstream(timeout=3)), 20)
            # An acknowledgement may still be in the library's buffer.
            await nc.flush()
        except Exception as failure:  # pylint: disable=broad-except
            error = f"{type(failure).__name__}: {failure}"
        print(json.dumps({"step": name, "error": error}), flush=True)
        await nc.close()


asyncio.run(main())
