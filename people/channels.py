"""Ways to people: log, mail, signed webhook, robots of group chats, a program of this machine. Blocking, each in a thread of its own.

A channel delivers or raises DeliveryError; whoever calls tries again. The same message may come twice after a kill: its id is the same.
What an error says never holds an address of a robot, a password or a signature.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import smtplib
import ssl
import subprocess
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any, Final, Protocol
from urllib.parse import quote_plus

import httpx
import structlog

from people import wording
from people.roster import Channel, CommandChannel, LogChannel, MailChannel, NotifyConfig, RobotChannel, Secret, WebhookChannel
from telemetry.errors import EnvironmentFault

log = structlog.get_logger()

LIMIT_S: Final = 5.0  # of a whole call over HTTP; of one step of SMTP
ANSWER_MAX: Final = 65_536  # bytes of an answer that are read
WECOM_BYTES_MAX: Final = 2000  # its text may have 2048
Reveal = Callable[[Secret], str]  # the secret that stands at a place
Wall = Callable[[], int]  # the wall clock, in ns since 1970 UTC


class DeliveryError(EnvironmentFault):
    """A channel did not take a message."""


class Sender(Protocol):
    """A channel that is ready to send."""

    def send(self, message: dict[str, Any], address: str, language: wording.Language) -> None:
        """Deliver, or raise DeliveryError. message: id, contact, lines, more."""
        ...


def make_sender(channel: Channel, config: NotifyConfig, reveal: Reveal, wall: Wall) -> Sender:
    """The channel with its secrets. Signatures carry the wall clock's time: receivers refuse what is an hour off."""
    match channel:
        case LogChannel():
            return LogSender()
        case MailChannel():
            return MailSender(channel, None if channel.password is None else reveal(channel.password), config.zone)
        case WebhookChannel():
            url = channel.url if isinstance(channel.url, str) else reveal(channel.url)
            return WebhookSender(url, reveal(channel.secret), wall, config.zone)
        case RobotChannel():
            return RobotSender(
                channel.kind, reveal(channel.url), reveal(channel.secret) if channel.secret else "", wall, config.zone
            )
        case CommandChannel():
            return CommandSender(channel, config.zone)


class LogSender:
    """A line for each alarm: the channel that always works."""

    def send(self, message: dict[str, Any], address: str, language: wording.Language) -> None:
        """Never fails."""
        del address, language
        for line in message["lines"]:
            log.warning("alarm_notice", id=message["id"], **line)
        if message["more"]:
            log.warning("alarm_notice_more", id=message["id"], more=message["more"])


class MailSender:
    """A plain text mail over a connection of its own; certificates are checked."""

    def __init__(self, channel: MailChannel, password: str | None, zone: str) -> None:
        self._channel, self._password, self._zone = channel, password, zone

    def send(self, message: dict[str, Any], address: str, language: wording.Language) -> None:
        """Deliver within some limits of LIMIT_S, one per step of SMTP."""
        channel = self._channel
        try:
            mail = self._mail(message, address, language)
            context = ssl.create_default_context(cafile=channel.ca_file)
            with contextlib.closing(self._connect(context)) as server:
                if channel.security == "starttls":
                    server.starttls(context=context)
                if self._password is not None:
                    server.login(channel.username, self._password)
                server.send_message(mail)
                with contextlib.suppress(OSError, smtplib.SMTPException):
                    server.quit()  # it has been taken; how the connection ends is no matter
        except smtplib.SMTPAuthenticationError as error:
            raise DeliveryError(f"the mail server refuses user name or password ({error.smtp_code})") from None
        except (OSError, ValueError, smtplib.SMTPException) as error:  # ValueError: an address that no header can hold
            raise DeliveryError(f"mail: {_without(str(error) or type(error).__name__, self._password or '')}") from None

    def _mail(self, message: dict[str, Any], address: str, language: wording.Language) -> EmailMessage:
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Date"] = self._channel.sender, address, formatdate()
        mail["Subject"] = wording.title(message, language)[:200]
        # Equal for a repeated attempt, so that mail programs show a message once that came twice.
        mail["Message-ID"] = f"<{hashlib.sha256(message['id'].encode()).hexdigest()[:32]}@fieldloom.invalid>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(wording.text(message, language, self._zone))
        return mail

    def _connect(self, context: ssl.SSLContext) -> smtplib.SMTP:
        if self._channel.security == "tls":
            return smtplib.SMTP_SSL(self._channel.host, self._channel.port, timeout=LIMIT_S, context=context)
        return smtplib.SMTP(self._channel.host, self._channel.port, timeout=LIMIT_S)


class WebhookSender:
    """POSTs JSON. 2xx is delivered; a redirect, which could lead into the inside of the network, is an error like any other answer.

    `X-Fieldloom-Signature` is `v1=` and the hex HMAC-SHA256, by the secret, of `X-Fieldloom-Timestamp` (s since 1970), a point, and
    the body's bytes. Receivers refuse old timestamps and ids (`X-Fieldloom-Id`) that they have seen.
    """

    def __init__(self, url: str, secret: str, wall: Wall, zone: str) -> None:
        self._url, self._secret, self._wall, self._zone = url, secret, wall, zone

    def send(self, message: dict[str, Any], address: str, language: wording.Language) -> None:
        """Deliver within the limit."""
        sent = {**message, "title": wording.title(message, language), "body": wording.text(message, language, self._zone)}
        sent |= {"address": address} if address else {}
        body = json.dumps(sent, ensure_ascii=False, allow_nan=False).encode()
        timestamp = str(self._wall() // 1_000_000_000)
        headers = {
            "Content-Type": "application/json",
            "X-Fieldloom-Id": quote_plus(message["id"]),
            "X-Fieldloom-Timestamp": timestamp,
            "X-Fieldloom-Signature": f"v1={signature(self._secret, timestamp, body)}",
        }
        post(self._url, body, headers)


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Hex HMAC-SHA256 of timestamp, point and body."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class RobotSender:
    """Robots of WeCom, DingTalk and Feishu: text messages. They answer 200 also when they refuse, with a code that is not 0."""

    def __init__(self, kind: str, url: str, secret: str, wall: Wall, zone: str) -> None:
        self._kind, self._url, self._secret, self._wall, self._zone = kind, url, secret, wall, zone

    def send(self, message: dict[str, Any], address: str, language: wording.Language) -> None:
        """Deliver within the limit. `address`: the mobile number of whom the group's message is to alert, or empty."""
        words = f"{wording.title(message, language)}\n{wording.text(message, language, self._zone)}"
        url, sent = getattr(self, f"_{self._kind}")(words, address)
        answer = post(url, json.dumps(sent, ensure_ascii=False).encode(), {"Content-Type": "application/json; charset=utf-8"})
        try:
            told = json.loads(answer)
            code = told.get("errcode", told.get("code", told.get("StatusCode")))
            reason = str(told.get("errmsg", told.get("msg", "")))
        except (ValueError, AttributeError, RecursionError):
            raise DeliveryError(f"{self._kind}: the answer is not that of a robot; check its address") from None
        if code != 0:
            raise DeliveryError(f"{self._kind}: refused with code {code}: {_without(reason, self._url, self._secret)[:200]}")

    def _wecom(self, words: str, address: str) -> tuple[str, dict[str, Any]]:
        content = words.encode()[:WECOM_BYTES_MAX].decode(errors="ignore")
        return self._url, {
            "msgtype": "text",
            "text": {"content": content, **({"mentioned_mobile_list": [address]} if address else {})},
        }

    def _dingtalk(self, words: str, address: str) -> tuple[str, dict[str, Any]]:
        """Signed in the address: base64 HMAC-SHA256, by the secret, of the time in ms, a line end, and the secret."""
        url = self._url
        if self._secret:
            timestamp = self._wall() // 1_000_000
            sign = base64.b64encode(hmac.digest(self._secret.encode(), f"{timestamp}\n{self._secret}".encode(), "sha256")).decode()
            url += f"{'&' if '?' in url else '?'}timestamp={timestamp}&sign={quote_plus(sign)}"
        at = {"at": {"atMobiles": [address], "isAtAll": False}} if address else {}
        return url, {"msgtype": "text", "text": {"content": words}, **at}

    def _feishu(self, words: str, address: str) -> tuple[str, dict[str, Any]]:
        """Signed in the body: base64 HMAC-SHA256 of nothing, by the time in s, a line end, and the secret as key."""
        del address
        sent: dict[str, Any] = {"msg_type": "text", "content": {"text": words}}
        if self._secret:
            timestamp = str(self._wall() // 1_000_000_000)
            sign = base64.b64encode(hmac.digest(f"{timestamp}\n{self._secret}".encode(), b"", "sha256")).decode()
            sent |= {"timestamp": timestamp, "sign": sign}
        return self._url, sent


class CommandSender:
    """Runs a program without a shell: `{address}` and `{title}` in its arguments are filled in, the text is its standard input."""

    def __init__(self, channel: CommandChannel, zone: str) -> None:
        self._channel, self._zone = channel, zone

    def send(self, message: dict[str, Any], address: str, language: wording.Language) -> None:
        """Delivered when it ends with 0 within its limit."""
        title = wording.title(message, language)
        argv = [word.replace("{address}", address).replace("{title}", title) for word in self._channel.argv]
        try:
            done = subprocess.run(
                argv, input=wording.text(message, language, self._zone), text=True, capture_output=True, errors="replace",
                timeout=self._channel.limit_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise DeliveryError(f"{argv[0]} did not end within {self._channel.limit_s:g} s and was killed") from None
        except (OSError, ValueError) as error:
            raise DeliveryError(f"{argv[0]} cannot be run: {error}") from None
        if done.returncode != 0:
            raise DeliveryError(f"{argv[0]} ended with {done.returncode}: {done.stderr.strip()[-200:]}")


def post(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    """POST; the answer of a 2xx. Raises DeliveryError, which does not name the address, at the latest after LIMIT_S (a silent name
    server takes the resolver's own time, some 10 s more)."""
    return asyncio.run(_post(url, body, headers))  # a loop for one call: only that cuts short a server that drips


async def _post(url: str, body: bytes, headers: dict[str, str]) -> bytes:
    answer = bytearray()
    try:
        async with (
            asyncio.timeout(LIMIT_S),
            httpx.AsyncClient(timeout=None) as client,
            client.stream("POST", url, content=body, headers=headers) as response,
        ):
            async for part in response.aiter_raw():
                answer += part
                if len(answer) > ANSWER_MAX:
                    raise DeliveryError("the answer is endless")
            if not response.is_success:
                raise DeliveryError(f"answered {response.status_code}")
    except TimeoutError:
        raise DeliveryError(f"no answer within {LIMIT_S:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeliveryError(f"no answer: {_without(str(error) or type(error).__name__, url)}") from None
    return bytes(answer)


def _without(words: str, *secrets: str) -> str:
    """The words with every secret in them masked."""
    for secret in secrets:
        words = words.replace(secret, "***") if secret else words
    return words
