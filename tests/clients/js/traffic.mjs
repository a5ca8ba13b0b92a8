#!/usr/bin/env node
// A service at work with nats.js as it comes, until its standard input is closed. ../py/traffic.py says what the first
// line of standard input has, which kinds of tasks there are, and what is printed.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { jetstream } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { connect, nkeyAuthenticator } from "@nats-io/transport-node";

const PACE = 30;
const PATIENCE = 1000;

const lines = createInterface({ input: process.stdin });
const job = JSON.parse((await lines[Symbol.asyncIterator]().next()).value);
const encode = (text) => new TextEncoder().encode(text);
const sleep = (time) => new Promise((done) => setTimeout(done, time));
let stopping = false;
const ends = [];
const stopped = new Promise((done) => ends.push(done));

const say = (task, of, n, again = false) => console.log(JSON.stringify({ task: task.id, of, n, again }));
const heard = (task, text, again) => {
  const [of, n] = text.split(" ");
  say(task, of, Number(n), again);
};

const options = {
  servers: job.server,
  name: job.name,
  maxReconnectAttempts: -1,
  reconnectTimeWait: 100,
  reconnectJitter: 10,
  timeout: 15000,
  // Else the second refusal ends the client for ever, however long the first is ago: a restart of the server is one,
  // when the client is back before solewriter.
  ignoreAuthErrorAbort: true,
};
if (job.inbox) options.inboxPrefix = job.inbox;
if (job.seed_file) options.authenticator = nkeyAuthenticator(encode(readFileSync(job.seed_file, "utf8").trim()));
else if (job.user) Object.assign(options, { user: job.user, pass: job.password });
if (job.tls) options.tls = { caFile: job.tls.ca, certFile: job.tls.cert, keyFile: job.tls.key };

const nc = await connect(options);
nc.closed().then((error) => {
  if (!stopping) console.log(JSON.stringify({ closed: String(error) }));
});
(async () => {
  for await (const status of nc.status()) {
    if (status.type === "error") console.error(job.name, String(status.error));
  }
})();
const js = jetstream(nc, { domain: job.domain, timeout: PATIENCE });

/** Tries until it works; whether that took more than one attempt. */
async function untilDone(attempt) {
  for (let again = false; ; again = true) {
    try {
      await attempt();
      return again;
    } catch (error) {
      console.error(job.name, String(error));
      await sleep(50);
    }
  }
}

function same(got, wanted) {
  if (got !== wanted) {
    console.error(job.name, `got ${got}, wanted ${wanted}`);
    process.exit(1);
  }
}

const sending = {
  publish: (task, n, text) => js.publish(task.subject, text, { msgID: `${task.id}-${n}`, timeout: PATIENCE, retries: 0 }),
  put_raw: (task, n, text) => js.publish(task.subject, text, { timeout: PATIENCE, retries: 0 }),
  put: async (task, n, text) => {
    const bucket = await new Kvm(js).open(task.bucket, { allow_direct: true });
    await bucket.put(task.key, text);
    if (task.get) same((await bucket.get(task.key)).string(), text);
  },
  tell: async (task, n, text) => {
    nc.publish(task.subject, text);
    await nc.flush();
  },
  ask: async (task, n, text) => same((await nc.request(task.subject, text, { timeout: PATIENCE })).string(), text),
  get_raw: async (task) => {
    const answer = await nc.request(task.subject, "", { timeout: PATIENCE });
    if (answer.headers?.hasError) throw new Error(answer.headers.description);
    if (!(Number(answer.string().split(" ")[1]) > 0)) same(answer.string(), "a number");
  },
};

async function send(task) {
  for (let n = task.from + 1; !stopping; n += 1) {
    const again = await untilDone(() => sending[task.kind](task, n, `${task.id} ${n}`));
    say(task, task.id, n, again);
    await sleep(PACE);
  }
}

const listening = {
  hear: async (task) => {
    nc.subscribe(task.subject, { callback: (_, message) => heard(task, message.string()) });
    await nc.flush();
    await stopped;
  },
  answer: async (task) => {
    const callback = (_, message) => {
      message.respond(message.data);
      heard(task, message.string());
    };
    nc.subscribe(task.subject, { queue: task.queue, callback });
    await nc.flush();
    await stopped;
  },
  watch: async (task) => {
    const bucket = await new Kvm(js).open(task.bucket, { allow_direct: true });
    const watch = await bucket.watch({ key: task.key });
    ends.push(() => watch.stop());
    for await (const entry of watch) heard(task, entry.string());
  },
  fetch: async (task) => {
    const consumer = await js.consumers.get(task.stream, task.durable);
    while (!stopping) {
      try {
        for await (const message of await consumer.fetch({ max_messages: 10, expires: 1000 })) {
          // It is sent once: a message whose first acknowledgement was lost comes again.
          const ackedAgain = await untilDone(() => message.ackAck({ timeout: PATIENCE }));
          heard(task, message.string(), message.redelivered || ackedAgain);
        }
      } catch (error) {
        console.error(job.name, String(error));
        await sleep(50);
      }
    }
  },
};

lines.on("close", () => {
  stopping = true;
  for (const end of ends) end();
});
await Promise.all(job.tasks.map((task) => (listening[task.kind] ?? send)(task)));
await nc.drain();
process.exit(0);
