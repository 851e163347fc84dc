"""Reads mails that were received over SMTP with Python's `email` package and says what is wrong with them.

Usage: check_mail.py FOLDER    FOLDER holds `expected.json` and one `.eml` file a mail.

Prints one JSON document, `{"mails": n, "problems": [..]}`; exit code 1 where there are problems. The rules are
those of RFC 5322, 2045 to 2047, 2046, 2369, 2919 and 8058, and of the large mailbox providers.
"""

import datetime
import email
import email.policy
import html.parser
import json
import pathlib
import re
import sys
import unicodedata
import urllib.parse

ONCE = ["Date", "From", "To", "Subject", "Message-ID", "Reply-To", "List-Id", "List-Unsubscribe", "List-Unsubscribe-Post",
        "List-Post", "List-Help", "Feedback-ID", "X-Optin-Delivery", "MIME-Version", "Content-Type"]
ENCODED_WORD = re.compile(r"=\?[^?\s]+\?[QqBb]\?[^?\s]*\?=")
MESSAGE_ID = re.compile(r"<[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]+(\.[0-9A-Za-z!#$%&'*+/=?^_`{|}~-]+)*@[0-9a-z-]+(\.[0-9a-z-]+)+>")
VOID = {"area", "br", "col", "hr", "img", "input", "link", "meta", "wbr"}


def letters(text):
    """What a person reads: without blanks, line ends, controls, and marks that turn text around."""
    text = unicodedata.normalize("NFC", text)
    return "".join(c for c in text if not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf", "Zs", "Zl", "Zp"))


class Page(html.parser.HTMLParser):
    """The elements of an HTML part with the names of their attributes, its texts, its addresses."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.words, self.links = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, tuple(sorted(name for name, _ in attributes))))
        self.links += [value for name, value in attributes if name in ("href", "src", "action", "background") and value]

    def handle_endtag(self, tag):
        if tag not in VOID:
            self.elements.append(("/" + tag, ()))

    def handle_data(self, data):
        self.words.append(data)

    def handle_comment(self, data):
        self.elements.append(("comment", (data,)))


class Checker:
    def __init__(self, expected):
        self.expected, self.problems, self.ids, self.pages = expected, [], {}, {}

    def check(self, name, raw):
        self.name = name
        self.bytes(raw)
        message = email.message_from_bytes(raw, policy=email.policy.default)
        person = self.expected["people"].get(str(message["To"] or ""))
        if not self.that(person is not None, f"it is to {message['To']!r}, whom nobody wrote to"):
            return
        self.fields(message, raw, person)
        self.unsubscribe(message)
        self.body(message, person)

    def that(self, condition, problem):
        if not condition:
            self.problems.append(f"{self.name}: {problem}")
        return condition

    def bytes(self, raw):
        lines = raw.split(b"\r\n")
        self.that(all(b"\r" not in line and b"\n" not in line for line in lines), "a bare CR or LF")
        self.that(max(map(len, lines)) <= 998, f"a line of {max(map(len, lines))} octets (RFC 5322 section 2.1.1)")
        self.that(b"\0" not in raw and raw.isascii(), "a NUL, or a byte that is not ASCII")
        head = raw.split(b"\r\n\r\n")[0].decode("ascii", "replace").split("\r\n")
        for line in head:
            words = ENCODED_WORD.findall(line)
            self.that(all(len(word) <= 75 for word in words), f"an encoded-word longer than 75 (RFC 2047 section 2): {line!r}")
            self.that(not words or len(line) <= 76, f"a line with an encoded-word longer than 76: {line!r}")
            self.that(not re.search(r'"[^"]*=\?[^"]*\?="', line), f"an encoded-word inside quotes (RFC 2047 section 5): {line!r}")

    def fields(self, message, raw, person):
        names = [key.lower() for key in message.keys()]
        self.that(sorted(names) == sorted(name.lower() for name in ONCE), f"other header fields than expected: {sorted(message.keys())}")
        for part in message.walk():
            self.that(not part.defects, f"defects: {part.defects}")
            for key, value in part.items():
                self.that(not value.defects, f"defects in {key}: {value.defects}")
        written = message["Date"].datetime
        self.that(written.tzinfo is not None, "a date without a zone")
        self.that(abs(datetime.datetime.now(datetime.timezone.utc) - written) < datetime.timedelta(hours=1), f"a date of {written}")
        sender = message["From"].addresses
        self.that([(one.display_name, one.addr_spec) for one in sender] == [tuple(self.expected["from"])], f"From is {sender}")
        self.that(len(message["To"].addresses) == 1, f"To is {message['To']}")
        self.that(message["Reply-To"].addresses[0].addr_spec == self.expected["reply_to"], f"Reply-To is {message['Reply-To']}")
        subject = str(message["Subject"])
        self.that("\ufffd" not in subject or "\ufffd" in person["name"], f"a broken letter in the subject {subject!r}")
        wanted = letters("For " + person["name"])
        self.that(letters(subject) in (wanted, wanted + "-"), f"the subject is {subject!r}, not {wanted!r}")
        identity = str(message["Message-ID"])
        self.that(MESSAGE_ID.fullmatch(identity), f"the Message-ID {identity!r} (RFC 5322 section 3.6.4)")
        self.that(person["local"] not in identity, "the recipient in the Message-ID")
        other = self.ids.setdefault(identity, self.name)
        self.that(other == self.name, f"the same Message-ID as {other}")
        self.that(re.fullmatch(r"[^:]*:[^:]*:[^:]*:[0-9A-Za-z]{5,15}", str(message["Feedback-ID"])), f"Feedback-ID {message['Feedback-ID']!r}")
        list_id = str(message["List-Id"])
        self.that(re.search(r"<[0-9a-z-]+(\.[0-9a-z-]+)+>$", list_id) and len(list_id.encode()) <= 255, f"List-Id {list_id!r} (RFC 2919)")
        self.that(letters(list_id.split("<")[0]) == letters(self.expected["topic"]), f"List-Id names {list_id!r}")
        self.that(str(message["List-Post"]) == "NO", f"List-Post {message['List-Post']!r} (RFC 2369 section 3.4)")

    def unsubscribe(self, message):
        value = str(message["List-Unsubscribe"])
        addresses = re.fullmatch(r"<([^<>\s]+)>,\s*<([^<>\s]+)>", value)
        if self.that(addresses, f"List-Unsubscribe {value!r} (RFC 2369 section 2)"):
            web, mail = addresses.groups()
            self.that(web.startswith(self.expected["site"] + "/u/"), f"List-Unsubscribe leads to {web}")
            self.that(mail.startswith("mailto:"), f"List-Unsubscribe has {mail} (RFC 8058 section 3.1: one https address)")
        self.that(str(message["List-Unsubscribe-Post"]) == "List-Unsubscribe=One-Click", "List-Unsubscribe-Post (RFC 8058 section 5)")

    def body(self, message, person):
        self.that(message.get_content_type() == "multipart/alternative", f"it is {message.get_content_type()}")
        parts = list(message.iter_parts())
        kinds = [(part.get_content_type(), part.get_content_charset()) for part in parts]
        if not self.that(kinds == [("text/plain", "utf-8"), ("text/html", "utf-8")], f"its parts are {kinds} (RFC 2046 section 5.1.4)"):
            return
        for part in parts:
            self.that(part["Content-Transfer-Encoding"] in ("quoted-printable", "base64"), f"encoded as {part['Content-Transfer-Encoding']}")
        text, page = parts[0].get_content(), Page(parts[1].get_content())
        for kind, words in [("text", text), ("HTML", "".join(page.words))]:
            value = re.search("«(.*)»", words, re.DOTALL)
            wanted = letters(person["value"])
            self.that(value and letters(value[1]) in (wanted, wanted or "-"), f"the {kind} part says {value and value[1]!r}, not {person['value']!r}")
            self.that(self.expected["postal_address"] in re.sub(r"\s+", " ", words), f"no postal address in the {kind} part")
        links = [*page.links, *re.findall(r"https?://[^\s<>«»]+", re.sub("«.*»", "", text, flags=re.DOTALL))]
        for link in links:
            self.that(person["local"] not in urllib.parse.unquote(link), f"the recipient in the address {link}")
            self.that(link.startswith(self.expected["site"] + "/"), f"a link that is not ours: {link}")
        for path in ("/u/", "/p/", "/v/", "/c/", "/o/"):
            self.that(any(link.startswith(self.expected["site"] + path) for link in page.links), f"no {path} link in the HTML part")
        self.that(self.expected["site"] + "/u/" in text, "no unsubscribe link in the text part")
        # Whatever is in a value, the mail has the same elements as everybody else's: nothing of it became HTML.
        same = self.pages.setdefault("first", page.elements)
        self.that(page.elements == same, f"its HTML has other elements than the first mail's: {set(page.elements) ^ set(same)}")


def main():
    folder = pathlib.Path(sys.argv[1])
    checker = Checker(json.loads((folder / "expected.json").read_text(encoding="utf-8")))
    mails = sorted(folder.glob("*.eml"))
    for mail in mails:
        try:
            checker.check(mail.name, mail.read_bytes())
        except Exception as error:  # a mail that breaks the parser is a finding like any other
            checker.problems.append(f"{mail.name}: cannot be read: {error!r}")
    print(json.dumps({"mails": len(mails), "problems": checker.problems}))
    sys.exit(1 if checker.problems else 0)


main()
