"""Uses streams, consumers and object stores that `solewriter state apply` made, as their admin."""

import argparse
import asyncio

import nats


async def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--server", required=True)
    arguments.add_argument("--seed-file", required=True)
    options = arguments.parse_args()
    client = await nats.connect(options.server, nkeys_seed=options.seed_file)
    js = client.jetstream(timeout=20)

    ack = await js.publish("events.orders.py", b"one", timeout=20)
    assert ack.stream == "EVENTS", ack
    shipping = await js.pull_subscribe_bind("shipping", stream="EVENTS")
    [message] = await shipping.fetch(1, timeout=20)
    assert (message.subject, message.data) == ("events.orders.py", b"one"), message
    await message.ack_sync(timeout=20)

    files = await js.object_store("files")
    await files.put("python", b"x" * 300_000)
    assert (await files.get("python")).data == b"x" * 300_000
    assert [entry.name for entry in await files.list()] == ["python"]
    await files.delete("python")
    await js.create_object_store("theirs")
    await client.close()
    print("done")


asyncio.run(main())
