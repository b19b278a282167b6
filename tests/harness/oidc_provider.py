"""A provider of OpenID Connect on loopback: discovery, authorize (a page that names the people),
token with PKCE, userinfo and keys. ``authlib`` checks the PKCE, and
its ``joserfc`` signs the tokens.
"""

import base64
import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.jwk import RSAKey

CLIENT, SECRET = "director", "a secret of the client"


class Provider:
    """The provider; ``people`` has the claims by name, and may be changed between sign-ins."""

    def __init__(self, people: dict[str, dict[str, Any]]) -> None:
        self.people = people
        self._key = RSAKey.generate_key(2048)
        self._codes: dict[str, tuple[str, str, str]] = {}  #: Person, challenge, redirect_uri.
        self._tokens: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def discovery(self) -> dict[str, Any]:
        names = {"authorization": "authorize", "token": "token", "userinfo": "userinfo"}
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            **{f"{name}_endpoint": f"{self.url}/{path}" for name, path in names.items()},
        }

    def authorize(self, query: dict[str, str]) -> str:
        """Return a page with a link for each person, as if each could sign in here."""
        links = []
        for name in self.people:
            code = secrets.token_hex(8)
            self._codes[code] = (name, query["code_challenge"], query["redirect_uri"])
            back = urlencode({"code": code, "state": query["state"]})
            links.append(f'<a href="{query["redirect_uri"]}?{back}">{name}</a>')
        return "<title>Provider</title>" + " ".join(links)

    def token(self, form: dict[str, str]) -> dict[str, Any] | None:
        name, challenge, redirect = self._codes.pop(form["code"], ("", "", ""))
        is_valid = (
            (form["client_id"], form["client_secret"]) == (CLIENT, SECRET)
            and create_s256_code_challenge(form["code_verifier"]) == challenge
            and form["redirect_uri"] == redirect
        )
        if not is_valid:
            return None
        token = secrets.token_hex(8)
        self._tokens[token] = name
        moment = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "iat": moment, "exp": moment + 300}
        signed = jwt.encode({"alg": "RS256"}, {**claims, **self.people[name]}, self._key)
        return {"access_token": token, "token_type": "Bearer", "id_token": signed}

    def keys(self) -> dict[str, Any]:
        return {"keys": [self._key.as_dict(private=False)]}

    def userinfo(self, header: str) -> dict[str, Any] | None:
        return self.people.get(self._tokens.get(header.removeprefix("Bearer "), ""))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                if parts.path == "/authorize":
                    self._send(provider.authorize(query), "text/html")
                elif parts.path == "/keys":
                    self._send(provider.keys())
                elif parts.path == "/userinfo":
                    self._send(provider.userinfo(self.headers.get("Authorization", "")))
                else:
                    self._send(provider.discovery())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                basic = self.headers.get("Authorization", "")
                if basic.startswith("Basic "):
                    text = base64.b64decode(basic[6:]).decode()
                    form["client_id"], _, form["client_secret"] = text.partition(":")
                self._send(provider.token(form))

            def _send(self, answer: Any, kind: str = "application/json") -> None:
                text = answer if isinstance(answer, str) else json.dumps(answer)
                self.send_response(200 if answer else 400)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
