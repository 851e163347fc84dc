// The stage that the Rust test has built: a running site with its people, the mails they got, and the
// program itself to ask what became true.
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";

// How long a mail may be on its way. Milliseconds.
const MAIL_TIME = 20_000;

export class Stage {
  constructor(file) {
    Object.assign(this, JSON.parse(fs.readFileSync(file, "utf8")));
    this.next = 0;
  }

  // Somebody whom nobody else in this run touches: subscribed to every topic, with a letter just received.
  async person() {
    const email = this.people[this.next++];
    if (!email) throw new Error("more people are needed: raise PEOPLE in tests/it/browser.rs");
    return { email, letter: await this.mail(email, () => true) };
  }

  // The program, in the folder of the instance; its JSON.
  async optin(...args) {
    const done = await promisify(execFile)(this.program, [...args, "--json"], { cwd: this.folder, env: this.environment });
    return JSON.parse(done.stdout);
  }

  async standing(email, topic) {
    const shown = await this.optin("contact", "show", email);
    return shown.topics.find((entry) => entry.topic === topic)?.standing ?? "none";
  }

  // The entries of the ledger about somebody, oldest first, without the import that all have.
  async history(email) {
    const { events } = await this.optin("consent", "history", email);
    return events.slice(this.topics.length);
  }

  // All mails somebody got, oldest first.
  mails(email) {
    const files = fs.readdirSync(this.mailbox).filter((name) => name.endsWith(".json")).sort();
    return files.map((name) => JSON.parse(fs.readFileSync(path.join(this.mailbox, name), "utf8"))).filter((mail) => mail.to.includes(email));
  }

  // Waits for a mail of that kind.
  async mail(email, fits, what = "a mail") {
    const deadline = Date.now() + MAIL_TIME;
    for (;;) {
      const found = this.mails(email).filter(fits).at(-1);
      if (found) return found;
      if (Date.now() > deadline) throw new Error(`${what} never came to ${email}; they have: ${this.mails(email).map((mail) => mail.subject).join(" | ")}`);
      await pause(25);
    }
  }

  words(lang, name) {
    return this.languages[lang][name];
  }
}

// The link of a mail whose path starts so: `/u/`, `/p/`, `/s/`, `/v/`.
export function link(mail, start) {
  const found = mail.text.match(new RegExp(`https?://[^\\s<>()"]+${start}[^\\s<>()"]+`));
  if (!found) throw new Error(`no ${start} in the mail:\n${mail.text}`);
  return found[0];
}

export function same(found, wanted, what) {
  const [left, right] = [found, wanted].map((value) => JSON.stringify(value));
  if (left !== right) throw new Error(`${what}: ${left}, not ${right}`);
}
