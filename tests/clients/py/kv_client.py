#!/usr/bin/env python3
"""A service's NATS client, in Python, driven by a script.

Two uses. The end-to-end tests run it to see what a real client library gets from the permissions that were
signed for it; and it shows a service's developer how to connect: an NKEY seed, a private inbox prefix, and
then the library's ordinary key-value API.

    kv_client.py --server URL --seed-file PATH --inbox _INBOX.<service> [--timeout SECONDS] [SCRIPT ...]

Each SCRIPT is a file with a JSON array of operations; without one, the array is read from standard input.
Every operation prints one line of JSON, in order:

    {"op": "put", "ok": true, "result": {"revision": 7}}
    {"op": "get", "ok": false, "error": "permissions", "detail": "...", "violations": ["..."]}

`error` is one of: timeout, permissions, not_found, wrong_revision, exists, authorization, other.
`violations` holds what the server said, while the operation ran, about subjects that this client may not use.
A failed operation does not end the script. Exit code: 0 when the script ran to its end, 3 when the server
refused the connection (the one line is then {"op": "connect", "ok": false, "error": "authorization", ...}),
2 when the arguments or the script are wrong or the server cannot be reached.

Operations (all but the last six take "bucket"; open it first):

    open, status, keys {at_least, filters}, purge_deletes
    put {key, value}       create {key, value, ttl}  update {key, value, revision}
    get {key}              get_revision {key, revision}
    delete {key, revision} purge {key, ttl}       history {key}
    watch {keys, expect}   collect the first `expect` entries, then stop the watch
    publish {subject, value}
    request {subject, value, timeout}
    subscribe {subject}    and later: receive {subject, expect}
    sleep {seconds}
    ordered {stream, api, expect}   read `expect` messages of a stream with an ordered consumer
"""

import argparse
import asyncio
import json
import sys

import nats
import nats.errors
import nats.js.errors

# How long an operation may go on after the server has reported a violation. To the library most violations
# look like an answer that never comes; there is no point in waiting for the whole deadline.
GRACE_AFTER_VIOLATION = 0.3

# What JetStream answers to a delete whose expected revision is not the current one.
WRONG_LAST_SEQUENCE = 10071


class Refused(Exception):
    """The server refused to let this client in."""


class Session:
    """One connection, the buckets and subscriptions opened on it, and what the server complained about."""

    def __init__(self, timeout):
        self.timeout = timeout
        self.nc = None
        self.js = None
        self.buckets = {}
        self.subscriptions = {}
        self.violations = []
        self.violated = asyncio.Event()
        self.refused = asyncio.Event()

    async def connect(self, server, seed_file, inbox):
        """Connects as a service should. Raises Refused at the first refusal, instead of trying for ever."""
        for _ in range(10):
            await self.connect_once(server, seed_file, inbox)
            # After 2 s nats-server pings a client that it has not let in yet, and nats.py takes that for the end of
            # connecting: connect() returns, nothing is connected, and no callback tells when it is. So begin anew.
            if self.nc.is_connected:
                break
            await self.nc.close()
        self.js = self.nc.jetstream(timeout=self.timeout)

    async def connect_once(self, server, seed_file, inbox):
        connecting = asyncio.create_task(
            nats.connect(
                server,
                nkeys_seed=seed_file,  # the client signs the server's nonce with it; the seed is never sent
                inbox_prefix=inbox.encode(),  # replies arrive under a prefix that no other service may read
                name=inbox.removeprefix("_INBOX."),
                error_cb=self.on_error,  # the only place where nats.py tells about violations
                max_reconnect_attempts=10,
                reconnect_time_wait=0.2,
                connect_timeout=20,
            )
        )
        refusing = asyncio.create_task(self.refused.wait())
        await asyncio.wait({connecting, refusing}, return_when=asyncio.FIRST_COMPLETED)
        refusing.cancel()
        if self.refused.is_set():
            connecting.cancel()
            raise Refused("the server refused the connection")
        self.nc = connecting.result()

    async def on_error(self, err):
        text = str(err)
        if "permissions violation" in text.lower():
            self.violations.append(text)
            self.violated.set()
        elif "authorization" in text.lower() or "authentication" in text.lower():
            self.refused.set()

    async def close(self):
        if self.nc is not None and not self.nc.is_closed:
            await asyncio.wait_for(self.nc.close(), self.timeout)

    def bucket(self, op):
        if op["bucket"] not in self.buckets:
            raise ValueError(f"bucket {op['bucket']} is not open")
        return self.buckets[op["bucket"]]

    # One method for each operation. Each returns what goes under "result".

    async def open(self, op):
        self.buckets[op["bucket"]] = await self.js.key_value(op["bucket"])
        return None

    async def status(self, op):
        status = await self.bucket(op).status()
        return {"bucket": status.bucket, "values": status.values, "history": status.history}

    async def put(self, op):
        return {"revision": await self.bucket(op).put(op["key"], op["value"].encode())}

    async def create(self, op):
        revision = await self.bucket(op).create(op["key"], op["value"].encode(), msg_ttl=op.get("ttl"))
        return {"revision": revision}

    async def update(self, op):
        revision = await self.bucket(op).update(op["key"], op["value"].encode(), last=op["revision"])
        return {"revision": revision}

    async def delete(self, op):
        await self.bucket(op).delete(op["key"], last=op.get("revision"))
        return None

    async def purge(self, op):
        await self.bucket(op).purge(op["key"], msg_ttl=op.get("ttl"))
        return None

    async def purge_deletes(self, op):
        await self.bucket(op).purge_deletes(olderthan=0)  # 0: delete markers of any age
        return None

    async def get(self, op):
        return entry_json(await self.bucket(op).get(op["key"]))

    async def get_revision(self, op):
        return entry_json(await self.bucket(op).get(op["key"], revision=op["revision"]))

    async def keys(self, op):
        # Under load, nats.py sometimes takes a bucket for empty before the first key has arrived. Who knows
        # better asks again; the deadline ends it.
        while True:
            try:
                keys = sorted(await self.bucket(op).keys(filters=op.get("filters")))
            except nats.js.errors.NoKeysError:
                keys = []
            if len(keys) >= op.get("at_least", 0):
                return keys

    async def history(self, op):
        # When all of it is on its way while the library asks how much is pending, it takes that for
        # an end: nothing is believed the third time only.
        for _ in range(3):
            try:
                return [entry_json(entry) for entry in await self.bucket(op).history(op["key"])]
            except nats.js.errors.NoKeysError:
                pass
        return []

    async def watch(self, op):
        watcher = await self.bucket(op).watch(op["keys"])
        entries = []
        try:
            while len(entries) < op["expect"]:
                entry = await watcher.updates(timeout=self.deadline(op))
                if entry is not None:  # None marks the end of the entries that were there already
                    entries.append(entry_json(entry))
        finally:
            await watcher.stop()
        return entries

    async def publish(self, op):
        await self.nc.publish(op["subject"], op["value"].encode())
        await self.flush()
        return None

    async def request(self, op):
        reply = await self.nc.request(op["subject"], op["value"].encode(), timeout=self.deadline(op))
        return {"value": reply.data.decode()}

    async def subscribe(self, op):
        subscription = await self.nc.subscribe(op["subject"])
        await self.flush()
        self.subscriptions[op["subject"]] = subscription
        return None

    async def receive(self, op):
        subscription = self.subscriptions[op["subject"]]
        messages = [await subscription.next_msg(self.deadline(op)) for _ in range(op.get("expect", 1))]
        return [{"subject": m.subject, "value": m.data.decode(errors="replace")} for m in messages]

    async def ordered(self, op):
        js = self.nc.jetstream(prefix=op["api"])
        subscription = await js.subscribe("", stream=op["stream"], ordered_consumer=True)
        messages = [await subscription.next_msg(self.deadline(op)) for _ in range(op["expect"])]
        await subscription.unsubscribe()
        return len(messages)

    async def sleep(self, op):
        await asyncio.sleep(op["seconds"])
        return None

    def deadline(self, op):
        return op.get("timeout", self.timeout)

    async def flush(self):
        """Waits until the server has seen everything sent so far, and raises if it refused any of it."""
        # nats.py's ping overtakes what it has not written yet, so it takes a second one to come after that.
        await self.nc.flush(self.timeout)
        await self.nc.flush(self.timeout)  # the server's complaint arrives before its answer to this
        if self.violations:
            raise PermissionError(self.violations[0])

    async def run(self, op):
        """Runs one operation against its deadline and returns its line of output."""
        self.violations = []
        self.violated.clear()
        line = {"op": op["op"]}
        try:
            if op["op"] not in OPERATIONS:
                raise ValueError("no such operation")
            deadline = op["seconds"] + 1 if op["op"] == "sleep" else self.deadline(op)
            line["result"] = await self.until_violation(getattr(self, op["op"])(op), deadline)
            line["ok"] = True
        except Exception as err:  # every failure becomes a line: that is what this program is for
            line["ok"] = False
            line["error"] = self.error_class(err)
            line["detail"] = f"{type(err).__name__}: {err}"
        if self.violations:
            line["violations"] = self.violations
        return line

    async def until_violation(self, operation, deadline):
        """Waits for the operation until its deadline, or shortly after a violation if that comes first."""
        running = asyncio.create_task(operation)
        violated = asyncio.create_task(self.violated.wait())
        await asyncio.wait({running, violated}, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        if violated.done() and not running.done():
            await asyncio.wait({running}, timeout=GRACE_AFTER_VIOLATION)
        violated.cancel()
        if not running.done():
            running.cancel()
            await asyncio.wait({running}, timeout=GRACE_AFTER_VIOLATION)
            raise nats.errors.TimeoutError
        return running.result()

    def error_class(self, err):
        if isinstance(err, PermissionError):
            return "permissions"
        if isinstance(err, (nats.errors.TimeoutError, asyncio.TimeoutError)):
            return "permissions" if self.violations else "timeout"
        if isinstance(err, nats.js.errors.KeyWrongLastSequenceError):
            return "wrong_revision"
        if getattr(err, "err_code", None) == WRONG_LAST_SEQUENCE:
            return "wrong_revision"
        if isinstance(err, nats.js.errors.NotFoundError):  # a key, a bucket or a stream
            return "not_found"
        if isinstance(err, nats.errors.AuthorizationError) or self.refused.is_set():
            return "authorization"
        return "other"


OPERATIONS = {
    "open", "status", "put", "create", "update", "delete", "purge", "purge_deletes", "get", "get_revision",
    "keys", "history", "watch", "publish", "request", "subscribe", "receive", "sleep", "ordered",
}  # fmt: skip


def entry_json(entry):
    return {
        "key": entry.key,
        "value": (entry.value or b"").decode(errors="replace"),
        "revision": entry.revision,
        "operation": entry.operation or "PUT",
    }


def read_operations(scripts):
    texts = [open(path, encoding="utf-8").read() for path in scripts] or [sys.stdin.read()]
    return [op for text in texts for op in json.loads(text)]


async def main():
    parser = argparse.ArgumentParser(description="Run key-value operations as a service would.")
    parser.add_argument("--server", required=True, help="for example nats://127.0.0.1:4222")
    parser.add_argument("--seed-file", required=True, help="file with the service's NKEY seed (SU...)")
    parser.add_argument("--inbox", required=True, help="the service's inbox prefix: _INBOX.<service>")
    parser.add_argument("--timeout", type=float, default=2.0, help="deadline of one operation, in seconds")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help="JSON array of operations; default stdin")
    args = parser.parse_args()

    operations = read_operations(args.scripts)
    session = Session(args.timeout)
    try:
        await session.connect(args.server, args.seed_file, args.inbox)
    except Refused as err:
        print_line({"op": "connect", "ok": False, "error": "authorization", "detail": str(err)})
        return 3
    except (OSError, nats.errors.Error) as err:
        print_line({"op": "connect", "ok": False, "error": "other", "detail": str(err)})
        return 2
    for op in operations:
        line = await session.run(op)
        # nats.py has no error of its own for "the key exists": its create raises the wrong revision.
        if op["op"] == "create" and line.get("error") == "wrong_revision":
            line["error"] = "exists"
        print_line(line)
    await session.close()
    return 0


def print_line(line):
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
