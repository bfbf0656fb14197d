"""aiosmtpd for the tests of the mailer: prints its port, then one JSON line for each mail that it takes.

Arguments: starttls|implicit, certificate file, key file, user, password.
"""
import json
import ssl
import sys
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

MODE, CERTIFICATE, KEY, USER, PASSWORD = sys.argv[1:6]
lock = threading.Lock()


def say(line):
    with lock:
        print(json.dumps(line), flush=True)


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if address.startswith("gone@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        say({
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "data": envelope.content.decode("ascii"),
            "tls": session.ssl is not None or MODE == "implicit",
            "user": getattr(session, "user", None),
        })
        return "250 2.0.0 taken"


def authenticate(server, session, envelope, mechanism, data):
    ok = data.login == USER.encode() and data.password == PASSWORD.encode()
    if ok:
        session.user = USER
    return AuthResult(success=ok, handled=ok)  # not handled: aiosmtpd itself answers 535


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(CERTIFICATE, KEY)


class Server(Controller):
    def factory(self):
        tls = {"tls_context": context, "require_starttls": True} if MODE == "starttls" else {}
        return SMTP(self.handler, authenticator=authenticate, auth_required=True,
                    auth_require_tls=MODE == "starttls", **tls)


controller = Server(Handler(), hostname="127.0.0.1", port=0,
                    ssl_context=context if MODE == "implicit" else None)
# Port 0 is the kernel's choice; the controller's own start-up check cannot know it, so the loop is started by hand.
import asyncio  # noqa: E402

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
server = loop.run_until_complete(
    loop.create_server(controller.factory, host="127.0.0.1", port=0, ssl=context if MODE == "implicit" else None))
say({"port": server.sockets[0].getsockname()[1]})
loop.run_forever()
