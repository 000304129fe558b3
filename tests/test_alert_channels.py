"Email and Telegram through apprise, against small servers of our own on loopback."

import json
import socketserver
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trading.ops.alert_rules import Alert
from trading.ops.notifications import Channel, notify

NOW = datetime(2024, 1, 15, 12, tzinfo=UTC)
ALERT = Alert("a1", "drawdown", "error", "new", "drawdown (paper)", "drawdown is above 0.1: 0.13; token=q1w2e3r4t5y6", NOW, NOW)


class Mailbox(socketserver.StreamRequestHandler):
    "As much of SMTP as a message needs."

    def handle(self):
        say = lambda text: self.wfile.write(f"{text}\r\n".encode())  # noqa: E731
        say("220 here")
        while line := self.rfile.readline():
            word = line.decode().strip().upper()
            if word.startswith("DATA"):
                say("354 go on")
                lines = []
                while (text := self.rfile.readline()) not in (b".\r\n", b""):
                    lines.append(text.decode())
                self.server.taken.append("".join(lines))
                say("250 taken")
            elif word.startswith("RCPT") and self.server.full:
                say("552 mailbox full")
            elif word.startswith("QUIT"):
                say("221 bye")
                return
            else:
                say("250 ok")


@pytest.fixture
def mailbox():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox) as server:
        server.daemon_threads, server.taken, server.full = True, [], False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def mail(server) -> Channel:
    return Channel("mail", f"mailto://127.0.0.1:{server.server_address[1]}?from=carnet@example.org&to=ann@example.org&mode=insecure", seconds=15)


def test_an_email_arrives_with_its_subject_and_without_the_secret(mailbox):
    result = notify(ALERT, [mail(mailbox)])[0]
    assert result.ok, result
    text = mailbox.taken[0]
    assert "Subject: Carnet, error: drawdown (paper)" in text.replace("\r\n ", " ") and "0.13" in text and "q1w2e3r4" not in text


def test_a_full_mailbox_is_a_failure_with_its_reason(mailbox):
    mailbox.full = True
    result = notify(ALERT, [mail(mailbox)])[0]
    assert not result.ok and result.detail and mailbox.taken == []


class Bot(BaseHTTPRequestHandler):
    "As much of Telegram's interface as a message needs."

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        self.server.taken.append((self.path, body))
        told = {"ok": self.server.status == 200, "result": {"message_id": 1, "chat": {"id": 42}}, "description": "Unauthorized"}
        answer = json.dumps(told).encode()
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("status", [200, 401])
def test_telegram_is_told_and_a_refusal_does_not_show_the_token(monkeypatch, status):
    from apprise.plugins.telegram import NotifyTelegram

    with ThreadingHTTPServer(("127.0.0.1", 0), Bot) as server:
        server.taken, server.status = [], status
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(NotifyTelegram, "notify_url", f"http://127.0.0.1:{server.server_port}/bot")
        token = "123456789:abcdefghijklmnopqrstuvwxyzABCDEFGHI"
        result = notify(ALERT, [Channel("phone", f"tgram://{token}/42/", seconds=15)])[0]
        server.shutdown()
    assert result.ok == (status == 200) and token[10:] not in result.detail
    sent = [body for path, body in server.taken if path.endswith("sendMessage")]
    assert sent and "0.13" in sent[0]["text"] and "q1w2e3r4" not in sent[0]["text"]
