"""Verifies an exported consent ledger by the rules of docs/ledger.md, without any code of optin.

usage: check_ledger.py EXPORT.jsonl [CHECKPOINT.json ..]

Prints one JSON object; exit code 1 where something does not fit. Needs PyNaCl for the signatures.
"""

import hashlib
import json
import struct
import sys

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey


def number(value):
    return struct.pack(">q", value)


def text(value):
    if value is None:
        return b"\xff" * 8
    data = value.encode("utf-8")
    return struct.pack(">Q", len(data)) + data


LATER = ("until", "channel", "purpose", "basis", "frequency", "detail", "origin_digest")


def link(entry, before):
    hashed = hashlib.sha256(b"optin consent ledger %d" % entry["version"])
    hashed.update(struct.pack(">Q", len(before)) + before)
    line = entry["source_line"]
    for value in (entry["seq"], entry["at"], entry["contact"], -1 if line is None else line):
        hashed.update(number(value))
    for field in ("topic", "action", "source", "wording_hash", "evidence_digest"):
        hashed.update(text(entry[field]))
    if entry["version"] == 2:
        until = entry["until"]
        hashed.update(number(-(2**63) if until is None else until))
        for field in LATER[1:]:
            hashed.update(text(entry[field]))
    return hashed.digest()


def wording_hash(line):
    hashed = hashlib.sha256(b"optin consent wording 2")
    for field in ("text", "locale", "kind", "text_version"):
        hashed.update(text(line[field]))
    return hashed.hexdigest()


def main():
    problems, before, expected, version, hashes = [], b"", 1, 1, {}
    named, wordings, checkpoints, entries, header = set(), set(), [], 0, None
    with open(sys.argv[1], encoding="utf-8") as export:
        for line in export:
            line = json.loads(line)
            if "format" in line:
                header = line
            elif "checkpoint" in line:
                checkpoints.append(line["checkpoint"])
            elif "wording" in line:
                by_text = hashlib.sha256(line["text"].encode("utf-8")).hexdigest()
                if line["wording"] not in (wording_hash(line), by_text):
                    problems.append(f"wording {line['wording']} was altered")
                wordings.add(line["wording"])
            else:
                entries += 1
                seq = line["seq"]
                if seq != expected:
                    problems.append(f"entry {expected} is missing")
                if line["version"] not in (1, 2) or line["version"] < version:
                    problems.append(f"entry {seq} has an impossible version")
                elif line["version"] == 1 and any(line[field] is not None for field in LATER):
                    problems.append(f"entry {seq} has fields that its version does not have")
                elif link(line, before).hex() != line["hash"]:
                    problems.append(f"entry {seq} does not fit the one before it")
                before = bytes.fromhex(line["hash"])
                expected, version = seq + 1, line["version"]
                hashes[seq] = line["hash"]
                if line["wording_hash"] is not None:
                    named.add(line["wording_hash"])
    if header is None or header["format"] != "optin ledger export 1":
        problems.append("this is no export of a ledger")
    elif (header["entries"], header["head"]) != (expected - 1, before.hex()):
        problems.append("the end of the chain is missing")
    problems += [f"wording {missing} is missing" for missing in sorted(named - wordings)]
    for name in sys.argv[2:]:
        with open(name, encoding="utf-8") as file:
            checkpoints.append(json.load(file))
    for checkpoint in checkpoints:
        signed = "optin consent checkpoint 1\n{seq}\n{hash}\n{at}\n".format(**checkpoint).encode("ascii")
        try:
            VerifyKey(bytes.fromhex(checkpoint["public_key"])).verify(signed, bytes.fromhex(checkpoint["signature"]))
        except (BadSignatureError, ValueError):
            problems.append(f"the signature at entry {checkpoint['seq']} does not fit")
        if checkpoint["seq"] and hashes.get(checkpoint["seq"]) != checkpoint["hash"]:
            problems.append(f"the chain does not have the entry {checkpoint['seq']} that was signed")
    print(json.dumps({"entries": entries, "wordings": len(wordings), "checkpoints": len(checkpoints), "problems": problems}))
    return 1 if problems else 0


sys.exit(main())
