#!/usr/bin/env python3
"""A service that waits for requests with nats.py as it comes, until its standard input is closed.

    idle.py --server URL --seed-file PATH --inbox _INBOX.<service> SUBJECT

Prints a line of JSON for each thing that happens to its connection, with when that was in seconds:
"connected", "disconnected", "reconnected", "closed", and "error" with what the library says.
"""

import argparse
import asyncio
import json
import sys
import time

import nats


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--seed-file", required=True)
    parser.add_argument("--inbox", required=True)
    parser.add_argument("subject")
    options = parser.parse_args()

    def say(event, **more):
        print(json.dumps({"event": event, "at": time.monotonic(), **more}), flush=True)

    async def disconnected():
        say("disconnected")

    async def reconnected():
        say("reconnected")

    async def closed():
        say("closed")

    async def error(what):
        say("error", detail=str(what))

    async def answer(message):
        await message.respond(b"here")

    nc = await nats.connect(
        options.server,
        nkeys_seed=options.seed_file,
        inbox_prefix=options.inbox.encode(),
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        closed_cb=closed,
        error_cb=error,
    )
    await nc.subscribe(options.subject, cb=answer)
    await nc.flush()
    say("connected")
    await asyncio.to_thread(sys.stdin.read)


asyncio.run(main())
