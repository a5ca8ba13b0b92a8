#!/usr/bin/env python3
"""A service at work with nats.py as it comes, until its standard input is closed.

The first line of standard input says who it is and what it does, as JSON:

    {"server": URL, "name": "web", "inbox": "_INBOX.web", "user": ..., "password": ..., "seed_file": ..., "domain": ...,
     "tls": {"ca": PATH, "cert": PATH, "key": PATH},
     "tasks": [{"id": "visits", "kind": "publish", "subject": "web.visits", "from": 0}, ...]}

Kinds: publish, put, put_raw, tell, ask, answer, hear, watch, get_raw, fetch. What a task sends is numbered, and sent again
until it is answered. Each deed prints a line of JSON: {"task", "n", "of", "again"}: of whose number, and whether it was
tried (or delivered) before.
"""

import asyncio
import json
import ssl
import sys

import nats
from nats.errors import Error

PACE = 0.03
PATIENCE = 1.0


class Service:
    def __init__(self, job):
        self.job = job
        self.stopping = asyncio.Event()

    def say(self, task, of, n, again=False):
        print(json.dumps({"task": task["id"], "of": of, "n": n, "again": again}), flush=True)

    def heard(self, task, message, again=False):
        of, _, n = message.data.decode().partition(" ")
        self.say(task, of, int(n), again)

    async def connect(self):
        job, options = self.job, {}
        if "inbox" in job:
            options["inbox_prefix"] = job["inbox"].encode()
        if "seed_file" in job:
            options["nkeys_seed"] = job["seed_file"]
        elif "user" in job:
            options["user"], options["password"] = job["user"], job["password"]
        if "tls" in job:
            context = ssl.create_default_context(cafile=job["tls"]["ca"])
            context.load_cert_chain(job["tls"]["cert"], job["tls"]["key"])
            options["tls"] = context

        async def closed():
            if not self.stopping.is_set():
                print(json.dumps({"closed": str(self.nc.last_error)}), flush=True)

        async def error(what):
            print(job["name"], repr(what), file=sys.stderr, flush=True)

        self.nc = await nats.connect(
            job["server"],
            name=job["name"],
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,
            closed_cb=closed,
            error_cb=error,
            **options,
        )
        self.js = self.nc.jetstream(domain=job.get("domain"), timeout=PATIENCE)

    async def until_done(self, attempt):
        """Tries until it works; whether that took more than one attempt."""
        again = False
        while True:
            try:
                await attempt(again)
                return again
            except (Error, asyncio.TimeoutError, OSError) as error:
                print(self.job["name"], repr(error), file=sys.stderr, flush=True)
                again = True
                await asyncio.sleep(0.05)

    async def send(self, task):
        """One number after the other, until the end."""
        kind, n = task["kind"], task["from"]
        while not self.stopping.is_set():
            n += 1
            data = f"{task['id']} {n}".encode()
            again = await self.until_done(lambda _: getattr(self, kind)(task, n, data))
            self.say(task, task["id"], n, again)
            await asyncio.sleep(PACE)

    async def publish(self, task, n, data):
        await self.js.publish(task["subject"], data, headers={"Nats-Msg-Id": f"{task['id']}-{n}"})

    async def put_raw(self, task, n, data):
        await self.js.publish(task["subject"], data)

    async def put(self, task, n, data):
        bucket = await self.js.key_value(task["bucket"])
        await bucket.put(task["key"], data)
        if task.get("get"):
            entry = await bucket.get(task["key"])
            assert entry.value == data, (entry.value, data)

    async def tell(self, task, n, data):
        await self.nc.publish(task["subject"], data)
        await self.nc.flush(PATIENCE)

    async def ask(self, task, n, data):
        answer = await self.nc.request(task["subject"], data, timeout=PATIENCE)
        assert answer.data == data, (answer.data, data)

    async def get_raw(self, task, n, data):
        answer = await self.nc.request(task["subject"], b"", timeout=PATIENCE)
        if answer.header and answer.header.get("Status"):
            raise Error(str(answer.header))
        assert int(answer.data.decode().partition(" ")[2]) > 0, answer.data

    async def hear(self, task):
        async def got(message):
            self.heard(task, message)

        await self.nc.subscribe(task["subject"], cb=got)
        await self.nc.flush()
        await self.stopping.wait()

    async def answer(self, task):
        async def got(message):
            await message.respond(message.data)
            self.heard(task, message)

        await self.nc.subscribe(task["subject"], queue=task.get("queue", ""), cb=got)
        await self.nc.flush()
        await self.stopping.wait()

    async def watch(self, task):
        bucket = await self.js.key_value(task["bucket"])
        watcher = await bucket.watch(task["key"])
        while not self.stopping.is_set():
            try:
                entry = await watcher.updates(timeout=0.2)
            except Error:
                continue
            if entry is not None:
                of, _, n = entry.value.decode().partition(" ")
                self.say(task, of, int(n))

    async def fetch(self, task):
        consumer = await self.js.pull_subscribe_bind(task["durable"], task["stream"])
        while not self.stopping.is_set():
            try:
                messages = await consumer.fetch(10, timeout=0.3)
            except (Error, asyncio.TimeoutError):
                continue
            for message in messages:
                again = message.metadata.num_delivered > 1
                acked_again = await self.until_done(lambda _: message.ack_sync(timeout=PATIENCE))
                self.heard(task, message, again or acked_again)

    async def run(self):
        await self.connect()
        listening = {"hear": self.hear, "answer": self.answer, "watch": self.watch, "fetch": self.fetch}
        tasks = [asyncio.create_task(listening.get(t["kind"], self.send)(t)) for t in self.job["tasks"]]

        async def end():
            while await asyncio.to_thread(sys.stdin.readline):
                pass
            self.stopping.set()

        ending = asyncio.create_task(end())
        await asyncio.gather(ending, *tasks)
        # Draining would wait for messages that a fetch got too late.
        await self.nc.flush()
        await self.nc.close()


asyncio.run(Service(json.loads(sys.stdin.readline())).run())
