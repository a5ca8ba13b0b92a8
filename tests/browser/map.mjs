// Opens map pages in a real browser and says what is wrong with what they show.
//   node map.mjs BROWSER PAGE.html...
// Ends with 1 and a line for each thing that is not as it should be.
import puppeteer from "puppeteer-core";
import { pathToFileURL } from "node:url";

const [browserPath, ...pages] = process.argv.slice(2);
const wrong = [];
const check = (holds, what) => { if (!holds) wrong.push(what); };

const browser = await puppeteer.launch({ executablePath: browserPath, headless: true, args: ["--no-sandbox"] });
for (const file of pages) for (const [width, height] of [[1280, 800], [500, 900]]) {
  const page = await browser.newPage();
  page.on("pageerror", error => wrong.push(`${file}: ${error}`));
  page.on("console", message => { if (message.type() === "error") wrong.push(`${file}: ${message.text()}`); });
  await page.setViewport({ width, height });
  await page.goto(pathToFileURL(file).href);
  await page.waitForSelector("#view svg, #view .card, #view .note");
  const where = `${file.split("/").pop()} at ${width} px`;

  // Nothing but the picture's own frame is wider than the screen.
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  check(overflow <= 0, `${where}: the page is ${overflow} px wider than the screen`);
  await looked(page, where, width);

  const groups = await page.$$eval("#view section", list => list.map(section => ({
    name: section.querySelector("h2 .mono")?.textContent ?? "",
    cards: [...section.querySelectorAll(".card strong")].map(card => card.textContent),
  })));
  if (groups.length) {
    const cards = groups.flatMap(group => group.cards);
    const total = await page.evaluate(() => Math.min(services.length, MOST_ROWS));
    check(cards.length === total, `${where}: ${cards.length} cards of ${total} services`);
    check(new Set(cards).size === cards.length, `${where}: a service has two cards`);
    check(groups.length > 1, `${where}: ${cards.length} cards in one group`);
    check(groups.every(group => group.name), `${where}: a group has no name`);
    for (const { name, cards } of groups) {
      const belong = await page.evaluate((name, cards) => cards.every(card => {
        const service = services[serviceAt.get(card)];
        return name === "others" || service.at.startsWith(name + ":") || service.name.startsWith(name);
      }), name, cards);
      check(belong, `${where}: the group ${name} has a service that is not of it`);
    }
    const all = await page.$$("#view .note button");
    for (const button of all) {
      await button.click();
      await page.waitForSelector("#view svg .box");
      await looked(page, `${where}, all of it`);
    }
  }
  // What a person does first: choose one.
  await page.evaluate(() => focusOn("service", services[0].name));
  await page.waitForSelector("#detail:not([hidden])");
  await looked(page, `${where}, one chosen`, width);
  for (const [kind, list, others] of [["stream", "streams", 3], ["name", "names", 2], ["bucket", "map.stores", 1]]) {
    const name = await page.evaluate(`focusOn("${kind}", ${list}[0].name), ${list}[0].name`);
    await page.waitForFunction(name => document.querySelector("#detail h2")?.textContent === name, {}, name);
    await looked(page, `${where}, ${name} chosen`, width);
    const linked = await page.$$eval("#detail li button", list => new Set(list.map(one => one.textContent)).size);
    check(linked === others, `${where}: ${name} has to do with ${linked} services, and not with ${others}`);
  }
  await page.evaluate(() => go({ view: "Streams", focus: null }));
  await page.waitForSelector("#view tbody tr");
  await page.close();
}
await browser.close();
for (const line of wrong) console.log(line);
process.exit(wrong.length ? 1 : 0);

// A picture opens on a box that can be seen; and at that width of the screen, if it is narrow, it is
// there in its whole width.
async function looked(page, where, width) {
  const seen = await page.evaluate(() => {
    const frame = document.querySelector(".frame");
    if (!frame) return null;
    const edge = frame.getBoundingClientRect();
    const inside = [...frame.querySelectorAll(".box rect.back")].filter(box => {
      const b = box.getBoundingClientRect();
      return b.left >= edge.left - 1 && b.right <= edge.right + 1 && b.top >= edge.top - 1 && b.top < edge.bottom;
    });
    return { inside: inside.length, wider: frame.scrollWidth - frame.clientWidth };
  });
  if (!seen) return;
  check(seen.inside > 0, `${where}: no box can be seen`);
  if (width && width < 700) check(seen.wider <= 1, `${where}: the picture is ${seen.wider} px wider than its frame`);
}
