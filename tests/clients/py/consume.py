#!/usr/bin/env python3
"""Takes messages from a durable consumer that exists, and acknowledges them in every way.

    consume.py --server URL --seed-file PATH --inbox _INBOX.<service> STREAM CONSUMER

The consumer must have four messages. The first is acknowledged with confirmation, the second is taken back and
acknowledged when it comes again, the third is extended and acknowledged, the fourth is terminated. Prints what
came, as JSON. Fails when the server refuses anything.
"""

import argparse
import asyncio
import json

import nats


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
    bound = await js.pull_subscribe_bind(arguments.consumer, stream=arguments.stream)
    info = await bound.consumer_info()
    came = []
    while len(came) < 5:
        for message in await bound.fetch(1, timeout=5):
            text = message.data.decode()
            again = text in came
            came.append(text)
            if text == "1":
                await message.ack_sync()
            elif text == "2" and not again:
                await message.nak()
            elif text == "2":
                await message.ack()
            elif text == "3":
                await message.in_progress()
                await message.ack_sync()
            else:
                await message.term()
    await nc.drain()
    assert not refused, refused
    print(json.dumps({"consumer": info.name, "came": sorted(came)}))


parser = argparse.ArgumentParser()
parser.add_argument("--server", required=True)
parser.add_argument("--seed-file", required=True)
parser.add_argument("--inbox", required=True)
parser.add_argument("stream")
parser.add_argument("consumer")
asyncio.run(main(parser.parse_args()))
