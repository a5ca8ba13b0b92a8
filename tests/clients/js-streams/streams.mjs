// What a service does with a stream, an object store and the services framework, with nats.js.
//
//     streams.mjs --server URL [--as FILE]
//
// Each step has a connection of its own, as the user of that name, whose password is its name, and
// prints a line of JSON: {"step": NAME, "error": null}, or what went wrong. With a FILE, only its steps run,
// each as a service: a list of {"step", "service", "seed_file"} in JSON.

import { readFileSync } from "node:fs";

import { AckPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { Objm } from "@nats-io/obj";
import { Svcm } from "@nats-io/services";
import { connect, nkeyAuthenticator } from "@nats-io/transport-node";

const FILTER = "events.orders.>";
const SIZE = 300_000;
const server = process.argv[process.argv.indexOf("--server") + 1];

/** Takes so many messages, and does something with each. */
async function take(messages, count, handle = () => {}) {
  let taken = 0;
  for await (const message of messages) {
    await handle(message, taken);
    taken += 1;
    if (taken === count) return;
  }
  throw new Error(`${taken} messages instead of ${count}`);
}

const durable = (nc) => jetstream(nc).consumers.get("EVENTS", "shipping");
const ordered = (nc, filter) => jetstream(nc).consumers.get("EVENTS", { filter_subjects: filter });
const manager = (nc) => jetstreamManager(nc, { checkAPI: false });
const store = (nc) => new Objm(nc).open("invoices");

const STEPS = {
  async publish(nc) {
    await jetstream(nc).publish("events.orders.1", "x");
  },
  async fetch(nc) {
    const messages = await (await durable(nc)).fetch({ max_messages: 4, expires: 5000 });
    await take(messages, 4, async (message, index) => {
      if (index === 0) message.ack();
      if (index === 1) await message.ackAck();
      if (index === 2) message.nak();
      if (index === 3) {
        message.working();
        message.term();
      }
    });
  },
  async consume(nc) {
    const messages = await (await durable(nc)).consume({ max_messages: 10 });
    await take(messages, 30, (message) => message.ack());
  },
  async work(nc) {
    const jobs = new Set();
    for (const _worker of [1, 2]) {
      const worker = await jetstream(nc).consumers.get("JOBS", "workers");
      const job = await worker.next();
      await job.ackAck();
      jobs.add(job.string());
    }
    if (jobs.size !== 2) throw new Error("one job came twice");
  },
  async manager(nc) {
    await (await jetstreamManager(nc)).consumers.info("EVENTS", "shipping");
  },
  async own_durable(nc) {
    const config = { durable_name: "own", filter_subject: FILTER, ack_policy: AckPolicy.Explicit };
    await (await manager(nc)).consumers.add("EVENTS", config);
    const message = await (await jetstream(nc).consumers.get("EVENTS", "own")).next();
    message.ack();
  },
  async ordered(nc) {
    await take(await (await ordered(nc, FILTER)).consume(), 3);
  },
  async ordered_push(nc) {
    const consumers = jetstream(nc).consumers;
    const consumer = await consumers.getPushConsumer("EVENTS", { filter_subjects: FILTER });
    await take(await consumer.consume(), 3);
  },
  async ordered_by_list(nc) {
    await take(await (await ordered(nc, [FILTER])).consume(), 3);
  },
  async ephemeral(nc) {
    const config = { name: "named", filter_subject: FILTER, ack_policy: AckPolicy.Explicit };
    await (await manager(nc)).consumers.add("EVENTS", config);
    const message = await (await jetstream(nc).consumers.get("EVENTS", "named")).next();
    message.ack();
  },
  async ephemeral_unnamed(nc) {
    const config = { filter_subject: FILTER, ack_policy: AckPolicy.Explicit };
    await (await manager(nc)).consumers.add("EVENTS", config);
  },
  async push(nc) {
    const consumer = await jetstream(nc).consumers.getPushConsumer("EVENTS", "pushed");
    await take(await consumer.consume(), 1, (message) => message.ack());
  },
  async direct_get(nc) {
    const jsm = await manager(nc);
    await jsm.direct.getMessage("EVENTS", { last_by_subj: "events.orders.1" });
  },
  async store_put(nc) {
    const invoices = await store(nc);
    for (let round = 0; round < 2; round += 1) {
      await invoices.putBlob({ name: "a" }, new Uint8Array(SIZE));
    }
  },
  async store_get(nc) {
    const blob = await (await store(nc)).getBlob("a");
    if (blob.length !== SIZE) throw new Error(`${blob.length} bytes`);
  },
  async store_list(nc) {
    if ((await (await store(nc)).list()).length === 0) throw new Error("nothing");
  },
  async store_watch(nc) {
    await take(await (await store(nc)).watch({ includeHistory: true }), 1);
  },
  async store_link(nc) {
    const invoices = await store(nc);
    await invoices.link("link", await invoices.info("a"));
  },
  async store_delete(nc) {
    await (await store(nc)).delete("a");
  },
  async store_seal(nc) {
    await (await store(nc)).seal();
  },
  async found(nc) {
    const service = await new Svcm(nc).add({ name: "quotes-api", version: "1.0.0" });
    service.addEndpoint("get", { subject: "quotes.get", handler: (_, m) => m.respond("y") });
    await nc.flush();
    await nc.request("quotes.get", "x", { timeout: 5000 });
  },
  async finds(nc) {
    const client = new Svcm(nc).client({ strategy: "stall", maxWait: 300 });
    for (const verb of ["ping", "info", "stats"]) {
      for (const of of [["quotes-api"], ["quotes-api", "id"]]) {
        try {
          for await (const _ of await client[verb](...of));
        } catch (error) {
          if (!`${error}`.includes("no responders")) throw error;
        }
      }
    }
  },
};

const within = (promise, milliseconds) =>
  Promise.race([
    promise,
    new Promise((_, reject) => {
      setTimeout(() => reject(new Error("no end")), milliseconds).unref();
    }),
  ]);

const services = process.argv.indexOf("--as");
const logins =
  services < 0
    ? Object.keys(STEPS).map((step) => [step, step, { user: step, pass: step }])
    : JSON.parse(readFileSync(process.argv[services + 1], "utf8")).map((as) => {
        const seed = new TextEncoder().encode(readFileSync(as.seed_file, "utf8").trim());
        return [as.step, as.service, { authenticator: nkeyAuthenticator(seed) }];
      });
for (const [step, service, login] of logins) {
  const run = STEPS[step];
  const inboxPrefix = `_INBOX.${service}`;
  const nc = await connect({ ...login, servers: server, inboxPrefix, reconnect: false });
  (async () => {
    for await (const _ of nc.status());
  })();
  let error = null;
  try {
    await within(run(nc), 20_000);
    // An acknowledgement may still be in the library's buffer.
    await within(nc.flush(), 20_000);
  } catch (failure) {
    error = `${failure}`;
  }
  console.log(JSON.stringify({ step, error }));
  await within(nc.close(), 2000).catch(() => {});
}
process.exit(0);
