#!/usr/bin/env python3
"""Works with an object store that exists, as a service. Fails when the server refuses anything.

    objects.py --server URL --seed-file PATH --inbox _INBOX.<service> STORE OPERATION ...

Operations: put and delete an object `python` of several chunks; get `kept`; list.
"""

import argparse
import asyncio

import nats

CONTENT = b"python" * 100_000


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
    store = await nc.jetstream(timeout=5).object_store(arguments.store)
    for operation in arguments.operations:
        if operation == "put":
            await store.put("python", CONTENT)
            assert (await store.get("python")).data == CONTENT
        elif operation == "get":
            assert len((await store.get("kept")).data) > 0
        elif operation == "list":
            assert "kept" in [entry.name for entry in await store.list()]
        elif operation == "delete":
            await store.delete("python")
        else:
            raise SystemExit(f"no such operation: {operation}")
    await nc.close()
    assert not refused, refused


parser = argparse.ArgumentParser()
parser.add_argument("--server", required=True)
parser.add_argument("--seed-file", required=True)
parser.add_argument("--inbox", required=True)
parser.add_argument("store")
parser.add_argument("operations", nargs="+")
asyncio.run(main(parser.parse_args()))
