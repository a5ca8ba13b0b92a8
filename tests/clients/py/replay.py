#!/usr/bin/env python3
"""Reads a part of a stream with consumers of its own, and with a direct get.

    replay.py --server URL --seed-file PATH --inbox _INBOX.<service> STREAM FILTER COUNT

Reads COUNT messages with an ordered consumer and with an ephemeral pull consumer, whose messages it acknowledges, and
gets the last message of the subject of the first. Prints what came, as JSON. Fails when the server refuses anything.
"""

import argparse
import asyncio
import json

import nats
from nats.js.api import ConsumerConfig
from nats.nuid import NUID


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
    js = nc.jetstream(timeout=5)
    stream, part = arguments.stream, arguments.filter
    config = ConsumerConfig(name=NUID().next().decode())
    ordered = await js.subscribe(part, stream=stream, ordered_consumer=True, config=config)
    came = [await ordered.next_msg(5) for _ in range(arguments.count)]
    ephemeral = await js.pull_subscribe(part, stream=stream)
    fetched = await ephemeral.fetch(arguments.count, timeout=5)
    for message in fetched:
        await message.ack_sync()
    last = await js.get_last_msg(stream, came[0].subject, direct=True)
    await nc.drain()
    assert not refused, refused
    ordered, fetched = ([message.data.decode() for message in list] for list in (came, fetched))
    print(json.dumps({"ordered": ordered, "fetched": fetched, "last": last.data.decode()}))


parser = argparse.ArgumentParser()
parser.add_argument("--server", required=True)
parser.add_argument("--seed-file", required=True)
parser.add_argument("--inbox", required=True)
parser.add_argument("stream")
parser.add_argument("filter")
parser.add_argument("count", type=int)
asyncio.run(main(parser.parse_args()))
