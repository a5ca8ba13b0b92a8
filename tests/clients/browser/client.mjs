// A service's NATS client in a page. `perform` runs one action, such as {"do": "put", "bucket": "b", "key": "k",
// "value": "v"}, and gives {"ok": true, "result": ...} or {"ok": false, "error": "..."}. Messages go as JSON, so
// that the program that drives the page needs to know nothing of it.
import { jetstream } from "@nats-io/jetstream";
import { Kvm } from "@nats-io/kv";
import { nkeyAuthenticator, wsconnect } from "@nats-io/nats-core";

let nc;

const js = () => jetstream(nc, { timeout: 20_000 });
const bucket = name => new Kvm(js()).open(name, { allow_direct: true });

const ACTIONS = {
  async connect({ url, seed, inbox }) {
    // The seed signs the server's nonce and is never sent. `inboxPrefix` is what the service may listen to.
    const authenticator = nkeyAuthenticator(new TextEncoder().encode(seed));
    nc = await wsconnect({ servers: url, authenticator, inboxPrefix: inbox, reconnect: false, timeout: 20_000 });
  },
  async put({ bucket: name, key, value }) {
    await (await bucket(name)).put(key, value);
  },
  async get({ bucket: name, key }) {
    return (await (await bucket(name)).get(key))?.string();
  },
  async watch({ bucket: name, expect }) {
    const seen = [];
    for await (const entry of await (await bucket(name)).watch()) {
      seen.push(`${entry.key}=${entry.string()}`);
      if (seen.length === expect) break;
    }
    return seen;
  },
  async publish({ subject, value }) {
    return (await js().publish(subject, value)).seq;
  },
  async consume({ stream, consumer }) {
    const message = await (await js().consumers.get(stream, consumer)).next({ expires: 20_000 });
    if (!await message.ackAck()) throw new Error("the acknowledgement was not answered");
    return message.string();
  },
  async closed() {
    await nc.closed();
  },
};

export async function perform(action) {
  try {
    return { ok: true, result: (await ACTIONS[action.do](action)) ?? null };
  } catch (error) {
    return { ok: false, error: `${error.name}: ${error.message}` };
  }
}
