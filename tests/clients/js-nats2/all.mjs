#!/usr/bin/env node
// Every key-value operation of the package `nats` 2.29, the one before `@nats-io/kv`, as a service's client.
//
//     node all.mjs --server URL --seed-file PATH --inbox _INBOX.<service> --bucket NAME [--check-api]
//
// One line of JSON for each operation: {"op": "put", "ok": true} or {"op": "put", "ok": false, "error": "..."}.
// With --check-api the library asks `$JS.API.INFO` first, as it does unless it is told otherwise.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { connect, nkeyAuthenticator } from "nats";

const { values: args } = parseArgs({
  options: {
    server: { type: "string" },
    "seed-file": { type: "string" },
    inbox: { type: "string" },
    bucket: { type: "string" },
    "check-api": { type: "boolean", default: false },
  },
});

const seed = new TextEncoder().encode(readFileSync(args["seed-file"], "utf8").trim());
const nc = await connect({
  servers: args.server,
  authenticator: nkeyAuthenticator(seed),
  inboxPrefix: args.inbox,
});

/** Runs one operation and prints what it came to. */
async function run(op, operation) {
  try {
    const result = await operation();
    console.log(JSON.stringify({ op, ok: true, result }));
    return result;
  } catch (error) {
    console.log(JSON.stringify({ op, ok: false, error: `${error.code ?? ""} ${error.message}` }));
    return undefined;
  }
}

/** What an iterator of the library gives until it ends. */
async function all(iterator, show) {
  const found = [];
  for await (const item of iterator) found.push(show(item));
  return found.sort();
}

// Without `checkAPI: false` the library asks for the whole account's usage before anything else.
const js = nc.jetstream({ checkAPI: args["check-api"] ? undefined : false, timeout: 2000 });
let kv;
await run("open", async () => {
  kv = await js.views.kv(args.bucket, { bindOnly: true, allow_direct: true });
});
if (kv) {
  await run("put", () => kv.put("a", "1"));
  await run("create", () => kv.create("b", "1"));
  await run("update", () => kv.update("a", "2", 1));
  await run("get", async () => (await kv.get("a")).string());
  await run("get_revision", async () => (await kv.get("a", { revision: 1 })).string());
  await run("keys", async () => all(await kv.keys(), (key) => key));
  await run("history", async () => all(await kv.history({ key: "a" }), (entry) => entry.string()));
  await run("watch", async () => {
    const watch = await kv.watch({ key: "b" });
    for await (const entry of watch) {
      watch.stop();
      return entry.string();
    }
  });
  await run("delete", () => kv.delete("b"));
  await run("purge", () => kv.purge("a"));
  await run("purge_deletes", async () => {
    await kv.purgeDeletes(-1000);
  });
  await run("status", async () => (await kv.status()).values);
}
await nc.close();
