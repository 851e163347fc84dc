// Every piece of the design on one page, so that a piece is looked at before a page needs it.
import fs from "node:fs";
import path from "node:path";
import { SIZES, Visitor } from "./browser.mjs";
import { audit, overflow } from "./checks.mjs";

export async function gallery(browser, stage) {
  const problems = [];
  const style = fs.readFileSync(path.join(stage.repository, "templates/public/style.css"), "utf8");
  const body = fs.readFileSync(path.join(stage.repository, "tests/browser/gallery.html"), "utf8");
  const visitor = await Visitor.arrive(browser, stage.sites.site, { script: true });
  const { page } = visitor;
  await page.setContent(
    `<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Every piece</title><style>${style}</style><body>${body}`,
  );
  // A selector that the browser does not know takes its whole rule along, silently.
  const lost = await page.evaluate((lines) => {
    const rules = (line) => {
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(line);
      return sheet.cssRules.length;
    };
    return lines.filter((line) => rules(line) === 0);
  }, style.split("\n").filter(Boolean));
  problems.push(...lost.map((line) => `the browser does not understand ${line}`));
  const picture = (kind) => page.screenshot({ path: `${stage.pictures}/gallery-${kind}.png`, fullPage: true });
  const session = await page.createCDPSession();
  const look = (media) => session.send("Emulation.setEmulatedMedia", media);
  const looks = { light: {}, dark: { "prefers-color-scheme": "dark" }, contrast: { "prefers-contrast": "more" } };
  for (const [kind, features] of Object.entries(looks)) {
    await look({ features: Object.entries(features).map(([name, value]) => ({ name, value })) });
    for (const [size, box] of Object.entries(SIZES)) {
      await visitor.resize(box);
      problems.push(...(await page.evaluate(overflow)), ...(await audit(page)).map((problem) => `${kind}, ${size}: ${problem}`));
      await picture(`${size}-${kind}`);
    }
  }
  await look({ features: [] });
  await visitor.resize(SIZES.phone);
  await page.evaluate(() => (document.documentElement.dir = "rtl"));
  problems.push(...(await page.evaluate(overflow)).map((problem) => `from right to left: ${problem}`));
  await picture("rtl");
  await page.evaluate(() => (document.documentElement.dir = "ltr"));
  await look({ features: [{ name: "forced-colors", value: "active" }] });
  await picture("forced-colors");
  await look({ media: "print", features: [] });
  await picture("print");
  await visitor.leave();
  return problems.map((problem) => `gallery: ${problem}`);
}
