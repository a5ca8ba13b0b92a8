// Opens pages that are NATS clients and has them act.
//   node drive.mjs BROWSER PORT...
// serves the same page on each of these ports of 127.0.0.1, each an origin of its own. Each line of standard input is
// an action with the "page" that does it: its port. Each line of output is what came of it, in the same order.
// BROWSER is a Chromium, or `node`: then the same client runs in Node.js, with a WebSocket that names the origin.
import { build } from "esbuild";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import vm from "node:vm";

const [program, ...ports] = process.argv.slice(2);
const bundled = await build({
  entryPoints: ["client.mjs"], bundle: true, write: false, format: "iife", globalName: "client", logLevel: "error",
});
const script = bundled.outputFiles[0].text;
const page = "<!doctype html><meta charset=utf-8><title>client</title><script src=client.js></script>";
const servers = await Promise.all(ports.map(port => new Promise((resolve, reject) => {
  const server = createServer((request, response) => {
    const isScript = request.url === "/client.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? script : page);
  });
  server.on("error", reject).listen(Number(port), "127.0.0.1", () => resolve(server));
})));

const origin = port => `http://127.0.0.1:${port}`;
const { open, close } = program === "node" ? await inNode() : await inBrowser();
const pages = new Map();
for await (const line of createInterface({ input: process.stdin })) {
  const action = JSON.parse(line);
  if (!pages.has(action.page)) pages.set(action.page, await open(origin(action.page)));
  console.log(JSON.stringify(await pages.get(action.page)(action)));
}
await close();
servers.forEach(server => { server.close(); server.closeAllConnections(); });

async function inBrowser() {
  const { default: puppeteer } = await import("puppeteer-core");
  const browser = await puppeteer.launch({ executablePath: program, headless: true, args: ["--no-sandbox"] });
  const open = async origin => {
    const tab = await browser.newPage();
    await tab.goto(origin);
    return action => tab.evaluate(action => client.perform(action), action);
  };
  return { open, close: () => browser.close() };
}

async function inNode() {
  const { WebSocket } = await import("ws");
  const open = async origin => {
    class Socket extends WebSocket {
      constructor(url, protocols) {
        super(url, protocols, { origin });
      }
    }
    vm.runInThisContext(script);
    const { client } = globalThis;
    return action => {
      globalThis.WebSocket = Socket;
      return client.perform(action);
    };
  };
  return { open, close: async () => {} };
}
