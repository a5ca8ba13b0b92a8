#!/usr/bin/env node
// A service's NATS client, in JavaScript, driven by a script.
//
// Two uses. The end-to-end tests run it to see what a real client library gets from the permissions that were
// signed for it; and it shows a service's developer how to connect: an NKEY seed, a private inbox prefix, and
// then the library's ordinary key-value API.
//
//     node kv_client.mjs --server URL --seed-file PATH --inbox _INBOX.<service> [--timeout SECONDS] [SCRIPT ...]
//
// Each SCRIPT is a file with a JSON array of operations; without one, the array is read from standard input.
// Every operation prints one line of JSON, in order:
//
//     {"op": "put", "ok": true, "result": {"revision": 7}}
//     {"op": "get", "ok": false, "error": "permissions", "detail": "...", "violations": ["..."]}
//
// `error` is one of: timeout, permissions, not_found, wrong_revision, exists, authorization, other.
// `violations` holds what the server said, while the operation ran, about subjects that this client may not use.
// A failed operation does not end the script. Exit code: 0 when the script ran to its end, 3 when the server
// refused the connection (the one line is then {"op": "connect", "ok": false, "error": "authorization", ...}),
// 2 when the arguments or the script are wrong or the server cannot be reached.
//
// Operations (all but the last six take "bucket"; open it first):
//
//     open {allow_direct}, status, keys {at_least, filters}, purge_deletes
//     put {key, value}       create {key, value, ttl}  update {key, value, revision}
//     get {key}              get_revision {key, revision}
//     delete {key, revision} purge {key, ttl}       history {key}
//     watch {keys, expect}   keys may be a list; collect the first `expect` entries, then stop the watch
//     publish {subject, value}
//     request {subject, value, timeout}
//     subscribe {subject}    and later: receive {subject, expect}
//     sleep {seconds}
//     ordered {stream, api, expect}   read `expect` messages of a stream with an ordered consumer

import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { jetstream, JetStreamApiError } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { connect, errors, nkeyAuthenticator } from "@nats-io/transport-node";

// How long an operation may go on after the server has reported a violation. The library fails most operations
// by itself at that moment, but not all.
const GRACE_AFTER_VIOLATION_MS = 300;

// What JetStream answers to a write whose expected revision is not the current one.
const WRONG_LAST_SEQUENCE = [10071, 10164];

/** Connects as a service should. Throws AuthorizationError if the server refuses. */
function connectAsService({ server, seedFile, inbox, timeoutMs }) {
  const seed = new TextEncoder().encode(readFileSync(seedFile, "utf8").trim());
  return connect({
    servers: server,
    authenticator: nkeyAuthenticator(seed), // signs the server's nonce; the seed is never sent
    inboxPrefix: inbox, // replies arrive under a prefix that no other service may read
    name: inbox.replace("_INBOX.", ""),
    timeout: Math.max(timeoutMs, 5000),
    maxReconnectAttempts: 10,
    reconnectTimeWait: 200,
  });
}

/** One connection, the buckets and subscriptions opened on it, and what the server complained about. */
class Session {
  constructor(nc, timeoutMs) {
    this.nc = nc;
    this.timeoutMs = timeoutMs;
    this.js = jetstream(nc, { timeout: timeoutMs });
    this.buckets = new Map();
    this.subscriptions = new Map();
    this.violations = [];
    this.onViolation = () => {};
    this.collectViolations();
  }

  /** The connection's status is the only place where the library tells about every violation. */
  async collectViolations() {
    for await (const status of this.nc.status()) {
      if (status.type === "error" && status.error instanceof errors.PermissionViolationError) {
        this.violations.push(status.error.message);
        this.onViolation();
      }
    }
  }

  bucket(op) {
    const bucket = this.buckets.get(op.bucket);
    if (!bucket) throw new Error(`bucket ${op.bucket} is not open`);
    return bucket;
  }

  deadline(op) {
    return op.timeout === undefined ? this.timeoutMs : op.timeout * 1000;
  }

  /** Waits until the server has seen everything sent so far, and throws if it refused any of it. */
  async flush() {
    await this.nc.flush();
    await new Promise(setImmediate); // the server's complaint came before its answer; let the status loop see it
    if (this.violations.length > 0) throw new errors.PermissionViolationError(this.violations[0]);
  }

  /** Runs one operation against its deadline and returns its line of output. */
  async run(op) {
    this.violations = [];
    const line = { op: op.op };
    try {
      if (!Object.hasOwn(OPERATIONS, op.op)) throw new Error("no such operation");
      const deadlineMs = op.op === "sleep" ? op.seconds * 1000 + 1000 : this.deadline(op);
      line.result = (await this.untilViolation(OPERATIONS[op.op](this, op), deadlineMs)) ?? null;
      line.ok = true;
    } catch (err) {
      line.ok = false;
      line.error = this.errorClass(op, err);
      line.detail = `${err.name}: ${err.message}`;
    }
    if (this.violations.length > 0) line.violations = this.violations;
    return line;
  }

  /** Waits for the operation until its deadline, or shortly after a violation if that comes first. */
  untilViolation(operation, deadlineMs) {
    let timer;
    const giveUp = new Promise((_, reject) => {
      const rejectAfter = (ms) => {
        clearTimeout(timer);
        timer = setTimeout(() => reject(new errors.TimeoutError()), ms);
      };
      rejectAfter(deadlineMs);
      this.onViolation = () => rejectAfter(GRACE_AFTER_VIOLATION_MS);
    });
    return Promise.race([operation, giveUp]).finally(() => {
      clearTimeout(timer);
      this.onViolation = () => {};
    });
  }

  errorClass(op, err) {
    // A request that failed wraps its reason.
    const reason = err instanceof errors.RequestError && err.cause ? err.cause : err;
    if (reason instanceof errors.PermissionViolationError) return "permissions";
    if (reason instanceof errors.TimeoutError) return this.violations.length > 0 ? "permissions" : "timeout";
    if (reason instanceof errors.AuthorizationError) return "authorization";
    if (reason instanceof errors.UserAuthenticationExpiredError) return "authorization";
    if (reason instanceof NotFound) return "not_found";
    if (reason instanceof JetStreamApiError) {
      if (WRONG_LAST_SEQUENCE.includes(reason.code)) return op.op === "create" ? "exists" : "wrong_revision";
      if (reason.apiError().code === 404) return "not_found";
    }
    return "other";
  }
}

/** The library returns null for a key that is not there, and an entry for one that was deleted. */
class NotFound extends Error {
  name = "NotFound";
}

function present(entry) {
  if (entry === null || entry.operation !== "PUT") throw new NotFound("no such key");
  return entryJson(entry);
}

function entryJson(entry) {
  return { key: entry.key, value: entry.string(), revision: entry.revision, operation: entry.operation };
}

// One function for each operation. Each returns what goes under "result".
const OPERATIONS = {
  async open(session, op) {
    // open, not create: create also asks $JS.API.INFO, which tells about the whole account and is not granted.
    // Opening sends nothing to the server, so a missing bucket shows at its first use. allow_direct makes a get name
    // its key in the subject, which is what a service that may read only a part of the bucket needs.
    const options = { allow_direct: op.allow_direct ?? true };
    session.buckets.set(op.bucket, await new Kvm(session.js).open(op.bucket, options));
  },

  async status(session, op) {
    const status = await session.bucket(op).status();
    return { bucket: status.bucket, values: status.values, history: status.history };
  },

  async put(session, op) {
    return { revision: await session.bucket(op).put(op.key, op.value) };
  },

  async create(session, op) {
    const ttl = op.ttl === undefined ? undefined : `${op.ttl}s`;
    return { revision: await session.bucket(op).create(op.key, op.value, ttl) };
  },

  async update(session, op) {
    return { revision: await session.bucket(op).update(op.key, op.value, op.revision) };
  },

  async delete(session, op) {
    await session.bucket(op).delete(op.key, { previousSeq: op.revision });
  },

  async purge(session, op) {
    await session.bucket(op).purge(op.key, op.ttl === undefined ? {} : { ttl: `${op.ttl}s` });
  },

  async purge_deletes(session, op) {
    await session.bucket(op).purgeDeletes(-1000); // a limit in the future: delete markers of any age
  },

  async get(session, op) {
    return present(await session.bucket(op).get(op.key));
  },

  async get_revision(session, op) {
    return present(await session.bucket(op).get(op.key, { revision: op.revision }));
  },

  async keys(session, op) {
    const keys = [];
    for await (const key of await session.bucket(op).keys(op.filters)) keys.push(key);
    return keys.sort();
  },

  async history(session, op) {
    const entries = [];
    for await (const entry of await session.bucket(op).history({ key: op.key })) entries.push(entryJson(entry));
    return entries;
  },

  async watch(session, op) {
    const watch = await session.bucket(op).watch({ key: op.keys });
    const stopAtDeadline = setTimeout(() => watch.stop(), session.deadline(op));
    const entries = [];
    if (op.expect > 0) {
      for await (const entry of watch) {
        entries.push(entryJson(entry));
        if (entries.length === op.expect) break;
      }
    }
    clearTimeout(stopAtDeadline);
    watch.stop();
    if (entries.length < op.expect) throw new errors.TimeoutError();
    return entries;
  },

  async ordered(session, op) {
    const js = jetstream(session.nc, { apiPrefix: op.api });
    const consumer = await js.consumers.get(op.stream);
    const messages = await consumer.consume();
    let count = 0;
    for await (const _ of messages) {
      count += 1;
      if (count === op.expect) break;
    }
    return count;
  },

  async publish(session, op) {
    session.nc.publish(op.subject, op.value);
    await session.flush();
  },

  async request(session, op) {
    const reply = await session.nc.request(op.subject, op.value, { timeout: session.deadline(op) });
    return { value: reply.string() };
  },

  async subscribe(session, op) {
    const received = [];
    let wake = () => {};
    session.nc.subscribe(op.subject, {
      callback: (err, message) => {
        if (!err) received.push({ subject: message.subject, value: message.string() });
        wake();
      },
    });
    await session.flush();
    session.subscriptions.set(op.subject, { received, next: () => new Promise((resolve) => (wake = resolve)) });
  },

  async receive(session, op) {
    const { received, next } = session.subscriptions.get(op.subject);
    const expect = op.expect ?? 1;
    while (received.length < expect) await next();
    return received.splice(0, expect);
  },

  sleep(_session, op) {
    return new Promise((resolve) => setTimeout(resolve, op.seconds * 1000));
  },
};

function readArguments() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      server: { type: "string" },
      "seed-file": { type: "string" },
      inbox: { type: "string" },
      timeout: { type: "string", default: "2" },
    },
  });
  for (const name of ["server", "seed-file", "inbox"]) {
    if (!values[name]) throw new Error(`--${name} is missing`);
  }
  const scripts = positionals.length > 0 ? positionals : [0]; // 0: standard input
  return {
    server: values.server,
    seedFile: values["seed-file"],
    inbox: values.inbox,
    timeoutMs: Number(values.timeout) * 1000,
    operations: scripts.flatMap((script) => JSON.parse(readFileSync(script, "utf8"))),
  };
}

function printLine(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function main() {
  let args;
  try {
    args = readArguments();
  } catch (err) {
    process.stderr.write(`${err.message}\n`);
    return 2;
  }

  let nc;
  try {
    nc = await connectAsService(args);
  } catch (err) {
    const refused = err instanceof errors.AuthorizationError;
    printLine({ op: "connect", ok: false, error: refused ? "authorization" : "other", detail: err.message });
    return refused ? 3 : 2;
  }

  const session = new Session(nc, args.timeoutMs);
  for (const op of args.operations) printLine(await session.run(op));
  await nc.close();
  return 0;
}

process.exitCode = await main();
