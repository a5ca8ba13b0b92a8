// The services framework of nats.js, from both sides. Fails when the server refuses anything.
//
//     services.mjs --server URL --seed-file PATH --inbox _INBOX.<service> found NAME SUBJECT
//     services.mjs --server URL --seed-file PATH --inbox _INBOX.<service> find NAME ...
//
// As services.py.

import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";
import { parseArgs } from "node:util";

import { Svcm } from "@nats-io/services";
import { connect, nkeyAuthenticator } from "@nats-io/transport-node";

const { values, positionals } = parseArgs({
  options: { server: { type: "string" }, "seed-file": { type: "string" }, inbox: { type: "string" } },
  allowPositionals: true,
});
const [side, ...words] = positionals;

const SIDES = {
  async found(nc, [name, subject]) {
    const service = await new Svcm(nc).add({ name, version: "1.0.0" });
    service.addEndpoint("get", { subject, handler: (_, message) => message.respond(name) });
    await nc.flush();
    console.log(service.info().id);
    await text(process.stdin);
    await service.stop();
  },
  async find(nc, names) {
    const client = new Svcm(nc).client({ strategy: "count", maxMessages: 1, maxWait: 5000 });
    const one = async (answers) => {
      for await (const answer of await answers) return answer;
      throw new Error("nobody answered");
    };
    const seen = {};
    for (const name of names) {
      const { id } = await one(client.ping(name));
      const info = await one(client.info(name, id));
      const { subject } = info.endpoints[0];
      const answer = (await nc.request(subject, "", { timeout: 5000 })).string();
      const stats = await one(client.stats(name));
      if (info.name !== name || stats.endpoints[0].subject !== subject) throw new Error(name);
      seen[name] = { id, subject, answer };
    }
    console.log(JSON.stringify(seen));
  },
};

const seed = new TextEncoder().encode(readFileSync(values["seed-file"], "utf8").trim());
const nc = await connect({
  servers: values.server,
  authenticator: nkeyAuthenticator(seed),
  inboxPrefix: values.inbox,
});
const refused = [];
(async () => {
  for await (const status of nc.status()) {
    if (status.type === "error") refused.push(String(status.error));
  }
})();
await SIDES[side](nc, words);
await nc.drain();
if (refused.length > 0) throw new Error(refused.join());
