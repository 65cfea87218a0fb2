"""Invalid tokens of every kind, for the tests of authorization."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from urllib.parse import quote, quote_plus

from azsession.server import AccessKey

SCHEME = "SharedAccessSignature "


def signed(sr: str, key: AccessKey, *, se: str | None = None, algorithm: str = "sha256", secret: bytes | None = None) -> str:
    """Return a token with exactly this ``sr``, signed over it."""
    expiry = str(int(time.time()) + 600) if se is None else se
    digest = hmac.new(secret or key.key.encode(), f"{sr}\n{expiry}".encode("utf-8", "surrogatepass"), algorithm).digest()
    return f"{SCHEME}sr={sr}&sig={quote_plus(base64.b64encode(digest))}&se={expiry}&skn={key.name}"


def wrong_resources(host: str, queue: str) -> dict[str, str]:
    """Return each ``sr`` by its fault. None is valid for the session ``s`` of a queue, however it is parsed."""
    once = {
        "a sibling": f"sb://{host}/{queue}2",
        "the same in another case": f"sb://{host}/{queue.upper()}",
        "the queue and a blank": f"sb://{host}/{queue} ",
        "the queue and a NUL": f"sb://{host}/{queue}\0",
        "the queue and a tab": f"sb://{host}/{queue}\t",
        "the queue over two lines": f"sb://{host}/{queue[:3]}\n{queue[3:]}",
        "the queue behind a line": f"sb://{host}/\r\n{queue}",
        "a dot segment": f"sb://{host}/./{queue}",
        "two dots": f"sb://{host}/other/../{queue}",
        "two dots at the end": f"sb://{host}/{queue}/..",
        "encoded dots": f"sb://{host}/other/%2e%2e/{queue}",
        "a backslash for a slash": f"sb://{host}\\{queue}",
        "a backslash in the path": f"sb://{host}/{queue}\\sessions",
        "an encoded slash": f"sb://{host}/{queue}%2Fsessions%2Fs",
        "a slash in the middle too much": f"sb://{host}/{queue}//sessions/s",
        "two slashes at the end": f"sb://{host}/{queue}/sessions//",
        "a query": f"sb://{host}/{queue}?sessions",
        "a query instead of the path": f"sb://{host}?/{queue}",
        "a fragment": f"sb://{host}/{queue}#2",
        "a fragment instead of the path": f"sb://{host}#/{queue}",
        "parameters": f"sb://{host}/{queue};a=b",
        "a session whose name is a query": f"sb://{host}/{queue}/sessions/?x",
        "another session": f"sb://{host}/{queue}/sessions/s2",
        "what is below the session": f"sb://{host}/{queue}/sessions/s/messages",
        "the session encoded twice": f"sb://{host}/{queue}/sessions/%2573",
        "bytes that are no UTF-8": f"sb://{host}/{queue}/sessions/%FF",
        "a subscription": f"sb://{host}/{queue}/subscriptions/s",
        "no host": f"sb:///{queue}",
        "nothing": "",
        "a path alone": f"/{queue}",
        "the host as a user": f"sb://{host}@elsewhere.example/{queue}",
        "a user before the host": f"sb://somebody@{host}/{queue}",
        "the host in a path": f"sb://elsewhere.example/{host}/{queue}",
        "the host and more": f"sb://{host}.elsewhere.example/{queue}",
        "a backslash before the host": f"sb://elsewhere.example\\@{host}/{queue}",
        "a host with a dot": f"sb://{host}./{queue}",
        "a host with a zone": f"sb://[{host}%25lo]/{queue}",
        "a host in full width": f"sb://{chr(ord(host[0]) + 0xFEE0)}{host[1:]}/{queue}",
        "a broken host": f"sb://[::1/{queue}",
        "a lone surrogate": f"sb://{host}/{queue}\udcff",
    }
    encoded = {name: quote(text.encode("utf-8", "surrogatepass"), safe="") for name, text in once.items()}
    return {
        **encoded,
        **{f"{name}, encoded twice": quote(text, safe="") for name, text in encoded.items() if "%" in text},
        "everything encoded twice": quote(quote(f"sb://{host}/{queue}", safe=""), safe=""),
        "bytes of the outer encoding that are no UTF-8": quote(f"sb://{host}/{queue}", safe="") + "%FF",
    }


def wrong_forms(host: str, queue: str, key: AccessKey) -> dict[str, str]:
    """Return malformed authorizations by their fault. All name the right resource."""
    sr, se = quote_plus(f"sb://{host}/{queue}"), str(int(time.time()) + 600)
    good = signed(sr, key, se=se)
    fields = dict(field.split("=", 1) for field in good.removeprefix(SCHEME).split("&"))
    digest = hmac.new(key.key.encode(), f"{sr}\n{se}".encode(), hashlib.sha256).digest()

    def made(**changes: str) -> str:
        return SCHEME + "&".join(f"{name}={value}" for name, value in {**fields, **changes}.items())

    tokens = {
        "a blank": " ",
        "the scheme alone": SCHEME.strip(),
        "another scheme": good.replace("SharedAccessSignature", "Bearer"),
        "an unsigned JWT": "Bearer " + ".".join(
            base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"none"}', b'{"sub":"root"}', b"")
        ),
        "Basic": "Basic " + base64.b64encode(f"{key.name}:wrong".encode()).decode(),
        "two in one": f"{good}, {good}",
        "a tab for the blank": good.replace(" ", "\t", 1),
        "blanks around fields": good.replace("&", " & "),
        "semicolons": good.replace("&", ";"),
        "an empty field": good + "&",
        "an empty field in front": good.replace(SCHEME, SCHEME + "&"),
        "upper-case names": good.replace("sr=", "SR=").replace("skn=", "SKN="),
        "encoded names": good.replace("sr=", "%73r="),
        "a name without a value": good.replace("&skn=" + key.name, "&skn"),
        "an algorithm named": made(sig="none"),
        "a signature of nothing": made(sig=quote_plus(base64.b64encode(hmac.new(b"", b"", hashlib.sha256).digest()))),
        "zeros for the signature": made(sig=quote_plus(base64.b64encode(b"\0" * 32))),
        "a signature one byte short": made(sig=quote_plus(base64.b64encode(digest[:-1]))),
        "a signature one byte long": made(sig=quote_plus(base64.b64encode(digest + b"\0"))),
        "a signature in hex": made(sig=digest.hex()),
        "a signature twice": made(sig=quote_plus(base64.b64encode(digest + digest))),
        "a signature with a blank": made(sig="%20" + fields["sig"]),
        "a signature with a line": made(sig=fields["sig"] + "%0A"),
        "SHA-1": signed(sr, key, se=se, algorithm="sha1"),
        "SHA-512": signed(sr, key, se=se, algorithm="sha512"),
        "MD5": signed(sr, key, se=se, algorithm="md5"),
        "the key's bytes": signed(sr, key, se=se, secret=base64.b64decode(key.key + "==")),
        "an expiry of 0": signed(sr, key, se="0"),
        "a negative expiry": signed(sr, key, se="-1"),
        "an expiry with a sign": signed(sr, key, se="+" + se),
        "an expiry with a blank": signed(sr, key, se="%20" + se),
        "an expiry in hex": signed(sr, key, se=hex(int(se))),
        "an expiry with a separator": signed(sr, key, se="_".join((se[:4], se[4:]))),
        "an expiry with an exponent": signed(sr, key, se="9e12"),
        "an expiry without end": signed(sr, key, se="inf"),
        "an expiry of 4300 digits": signed(sr, key, se="9" * 4300),
        "an expiry of 13 digits": signed(sr, key, se="9" * 13),
        "an expiry of no digits": signed(sr, key, se=""),
        "an expiry of other digits": signed(sr, key, se="٤" * 10),
        "an expiry of encoded digits": signed(sr, key, se="".join(f"%3{digit}" for digit in se)),
        "the key's name with a NUL": made(skn=key.name + "%00"),
        "the key's name in another case": made(skn=key.name.upper()),
        "the key's name encoded three times": made(skn="%25252572" + key.name[1:]),
        "4096 characters and one": good + "&" * (4097 - len(good)),
        "60,000 characters": good.replace("skn=", "skn=" + "x" * 60_000),
    }  # fmt: skip
    as_urls = base64.urlsafe_b64encode(digest).decode()
    if as_urls != base64.b64encode(digest).decode():
        tokens["a signature in the URLs' base64"] = made(sig=as_urls)
    return tokens
