#!/usr/bin/env python3
"""The services framework, from both sides. Fails when the server refuses anything.

    services.py --server URL --seed-file PATH --inbox _INBOX.<service> found NAME SUBJECT
    services.py --server URL --seed-file PATH --inbox _INBOX.<service> find NAME ...

`found` is a service with one endpoint. It prints its id once it can be found, and goes on until its standard input
ends. `find` looks for services by their names, and asks each one's endpoint once. It prints what was found, as JSON:
for each name its id, the subject of its endpoint, and what the endpoint said.
"""

import argparse
import asyncio
import json
import sys

import nats
import nats.micro


async def found(nc, name, subject):
    service = await nats.micro.add_service(nc, name=name, version="1.0.0")

    async def answer(request):
        await request.respond(name.encode())

    await service.add_endpoint(name="get", subject=subject, handler=answer)
    await nc.flush()
    print(service.id, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await service.stop()


async def find(nc, *names):
    async def ask(subject):
        return json.loads((await nc.request(f"$SRV.{subject}", b"", timeout=5)).data)

    seen = {}
    for name in names:
        pong = await ask(f"PING.{name}")
        assert pong["name"] == name, pong
        info = await ask(f"INFO.{name}.{pong['id']}")
        subject = info["endpoints"][0]["subject"]
        answer = (await nc.request(subject, b"", timeout=5)).data.decode()
        stats = await ask(f"STATS.{name}")
        assert stats["endpoints"][0]["subject"] == subject, stats
        seen[name] = {"id": pong["id"], "subject": subject, "answer": answer}
    print(json.dumps(seen))


async def main(arguments):
    refused = []

    async def on_error(error):
        refused.append(str(error))

    nc = await nats.connect(
        arguments.server,
        nkeys_seed=arguments.seed_file,
        inbox_prefix=arguments.inbox,
        error_cb=on_error,
    )
    await {"found": found, "find": find}[arguments.side](nc, *arguments.words)
    await nc.drain()
    assert not refused, refused


parser = argparse.ArgumentParser()
parser.add_argument("--server", required=True)
parser.add_argument("--seed-file", required=True)
parser.add_argument("--inbox", required=True)
parser.add_argument("side", choices=["found", "find"])
parser.add_argument("words", nargs="+")
asyncio.run(main(parser.parse_args()))
