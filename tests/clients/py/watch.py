#!/usr/bin/env python3
"""An ordinary watch of a bucket with nats.py, which goes on until its standard input is closed.

    watch.py --server URL --seed-file PATH --inbox _INBOX.<service> BUCKET

Prints one line for each thing that happens: "watching", "value <key> <value>", "reconnected".
"""

import argparse
import asyncio
import sys

import nats
import nats.errors


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--seed-file", required=True)
    parser.add_argument("--inbox", required=True)
    parser.add_argument("bucket")
    options = parser.parse_args()

    def say(*words):
        print(*words, flush=True)

    async def back():
        say("reconnected")

    async def error(_):
        pass

    nc = await nats.connect(
        options.server,
        nkeys_seed=options.seed_file,
        inbox_prefix=options.inbox.encode(),
        reconnected_cb=back,
        error_cb=error,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
    )
    bucket = await nc.jetstream().key_value(options.bucket)
    watch = await bucket.watchall()
    say("watching")
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    while not ended.done():
        try:
            entry = await watch.updates(timeout=0.2)
        except nats.errors.TimeoutError:
            continue
        if entry is not None:
            say("value", entry.key, entry.value.decode())


asyncio.run(main())
