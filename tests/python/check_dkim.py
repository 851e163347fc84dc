"""Verifies every DKIM signature of mails with two implementations that are not ours: dkimpy, and the
library of OpenDKIM.

    python3 check_dkim.py FOLDER

FOLDER holds *.eml (as received) and keys.txt, lines of `NAME RECORD` as DNS would answer them. Prints
one JSON document: for each mail the results of its signatures, top first.
"""

import ctypes
import ctypes.util
import json
import pathlib
import sys

import dkim

PASSED = 0x04  # DKIM_SIGFLAG_PASSED
BODY_HASH_MATCHES = 0  # DKIM_SIGBH_MATCH
OPTION_SET, QUERY_METHOD, QUERY_INFO, QUERY_FILE = 1, 6, 7, 1  # DKIM_OP_SETOPT, DKIM_OPTS_.., DKIM_QUERY_FILE


def by_dkimpy(message, keys):
    def look_up(name, timeout=5):
        return keys.get(name.decode().rstrip("."))

    count = sum(1 for line in message.split(b"\r\n\r\n", 1)[0].split(b"\r\n") if line.lower().startswith(b"dkim-signature:"))
    results = []
    for index in range(count):
        try:
            results.append(dkim.DKIM(message).verify(idx=index, dnsfunc=look_up))
        except dkim.DKIMException as problem:
            results.append(f"{type(problem).__name__}: {problem}")
    return results


class OpenDkim:
    def __init__(self, keys_file):
        library = self.library = ctypes.CDLL(ctypes.util.find_library("opendkim") or "libopendkim.so.11")
        pointer = ctypes.c_void_p
        for name, answer, arguments in [
            ("dkim_init", pointer, [pointer, pointer]),
            ("dkim_options", ctypes.c_int, [pointer, ctypes.c_int, ctypes.c_int, pointer, ctypes.c_size_t]),
            ("dkim_verify", pointer, [pointer, ctypes.c_char_p, pointer, pointer]),
            ("dkim_chunk", ctypes.c_int, [pointer, ctypes.c_char_p, ctypes.c_size_t]),
            ("dkim_eom", ctypes.c_int, [pointer, pointer]),
            ("dkim_getsiglist", ctypes.c_int, [pointer, pointer, pointer]),
            ("dkim_sig_process", ctypes.c_int, [pointer, pointer]),
            ("dkim_sig_getflags", ctypes.c_uint, [pointer]),
            ("dkim_sig_getbh", ctypes.c_int, [pointer]),
            ("dkim_sig_geterror", ctypes.c_int, [pointer]),
            ("dkim_sig_geterrorstr", ctypes.c_char_p, [ctypes.c_int]),
            ("dkim_free", ctypes.c_int, [pointer]),
        ]:
            function = getattr(library, name)
            function.restype, function.argtypes = answer, arguments
        self.handle = library.dkim_init(None, None)
        method = ctypes.c_int(QUERY_FILE)
        path = ctypes.create_string_buffer(str(keys_file).encode())
        for option, value, size in [(QUERY_METHOD, method, ctypes.sizeof(method)), (QUERY_INFO, path, len(path.value))]:
            if library.dkim_options(self.handle, OPTION_SET, option, ctypes.byref(value), size) != 0:
                sys.exit("libopendkim refuses an option")

    def verify(self, message):
        library = self.library
        status = ctypes.c_int()
        mail = library.dkim_verify(self.handle, b"mail", None, ctypes.byref(status))
        library.dkim_chunk(mail, message, len(message))
        library.dkim_chunk(mail, b"", 0)
        library.dkim_eom(mail, None)
        signatures, count = ctypes.POINTER(ctypes.c_void_p)(), ctypes.c_int()
        results = []
        if library.dkim_getsiglist(mail, ctypes.byref(signatures), ctypes.byref(count)) == 0:
            for signature in signatures[: count.value]:
                library.dkim_sig_process(mail, signature)
                passed = library.dkim_sig_getflags(signature) & PASSED and library.dkim_sig_getbh(signature) == BODY_HASH_MATCHES
                error = library.dkim_sig_geterrorstr(library.dkim_sig_geterror(signature))
                results.append(True if passed else (error or b"failed").decode())
        library.dkim_free(mail)
        return results


def main(folder):
    keys = dict(line.split(b" ", 1) for line in (folder / "keys.txt").read_bytes().splitlines())
    keys = {name.decode(): record for name, record in keys.items()}
    open_dkim = OpenDkim(folder / "keys.txt")
    mails = {}
    for file in sorted(folder.glob("*.eml")):
        message = file.read_bytes()
        mails[file.stem] = {"dkimpy": by_dkimpy(message, keys), "opendkim": open_dkim.verify(message)}
    print(json.dumps(mails))


main(pathlib.Path(sys.argv[1]))
