#!/usr/bin/env node
// A service that waits for requests with nats.js as it comes, until its standard input is closed.
//
//     node idle.mjs --server URL --seed-file PATH --inbox _INBOX.<service> SUBJECT
//
// Prints a line of JSON for each thing that happens to its connection, with when that was in seconds:
// "connected", "disconnected", "reconnected", "closed", and "error" with what the library says.

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { connect, nkeyAuthenticator } from "@nats-io/transport-node";

const { values, positionals } = parseArgs({
  options: { server: { type: "string" }, "seed-file": { type: "string" }, inbox: { type: "string" } },
  allowPositionals: true,
});
const say = (event, more = {}) =>
  console.log(JSON.stringify({ event, at: performance.now() / 1000, ...more }));

const seed = new TextEncoder().encode(readFileSync(values["seed-file"], "utf8").trim());
const nc = await connect({
  servers: values.server,
  authenticator: nkeyAuthenticator(seed),
  inboxPrefix: values.inbox,
});
(async () => {
  for await (const status of nc.status()) {
    if (status.type === "disconnect") say("disconnected");
    if (status.type === "reconnect") say("reconnected");
    if (status.type === "error") say("error", { detail: String(status.error) });
  }
})();
nc.closed().then((error) => say("closed", error ? { detail: String(error) } : {}));
nc.subscribe(positionals[0], { callback: (_, message) => message.respond("here") });
await nc.flush();
say("connected");
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
