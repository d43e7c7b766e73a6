"""Talking HTTP to InfluxDB 1.x, 2.x and their look-alikes: two narrow transports, one classification of every wrong answer.

1.x: POST /write and /query. 2.x: POST /api/v2/write through `influxdb-client`, InfluxQL over /query with the token and a
database-and-retention-policy mapping of the bucket. Flux is not used: 3.x no longer serves it.
A write has succeeded when the server answers 204 and at no other time.
"""

import os
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import urlencode

import msgspec
import urllib3
from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.domain.bucket_retention_rules import BucketRetentionRules
from influxdb_client.rest import ApiException
from influxdb_client.service.write_service import WriteService

from store.history import HistoryFault, QueryLimit
from store.influx_lines import MEASUREMENT

CONNECT_S: Final = 2.0
READ_S: Final = 5.0
_GZIP: Final = 31  # zlib window bits that mean a gzip head
_write_service: Any = WriteService  # the client's classes have no annotations
_retention: Any = BucketRetentionRules
_SABOTAGE: Final = os.environ.get("FIELDLOOM_SABOTAGE", "")


class Refused(Exception):
    """The server will never take these lines as they are. `dropped`: how many it says it left out of an otherwise good write."""

    def __init__(self, reason: str, *, dropped: int | None = None, is_too_large: bool = False) -> None:
        self.reason = reason
        self.dropped = dropped
        self.is_too_large = is_too_large
        super().__init__(reason)


class Table(msgspec.Struct):
    """One series of an InfluxQL answer. The time column is in ms; NULL is None."""

    columns: list[str]
    values: list[list[float | None]]
    tags: dict[str, str] = {}


class _Result(msgspec.Struct):
    series: list[Table] = []
    error: str = ""


class _Answer(msgspec.Struct):
    results: list[_Result]


class _Error(msgspec.Struct):
    error: str = ""
    message: str = ""


_answer_decoder: Final = msgspec.json.Decoder(_Answer)
_error_decoder: Final = msgspec.json.Decoder(_Error)


class InfluxServer(Protocol):
    """A database on a server. Every method raises HistoryFault within the connect and read time limits when it is down."""

    def prepare(self) -> None:
        """Make sure that the database exists and can be queried. Repeatable."""
        ...

    def write(self, lines: bytes) -> None:
        """Durably write lines with ms time stamps; writing the same line again changes nothing. Refused: see there."""
        ...

    def query(self, statements: Sequence[str]) -> list[list[Table]]:
        """Tables of each InfluxQL statement. QueryLimit when the server stopped the query."""
        ...

    def delete_before(self, ts_ms: int) -> None:
        """Forget samples before a time."""
        ...

    def close(self) -> None:
        """Drop the connections."""
        ...


class InfluxV1:
    """InfluxDB 1.x (and 1.x compatible endpoints) at `url`, database `database`."""

    def __init__(
        self,
        url: str,
        database: str,
        *,
        username: str = "",
        password: str = "",
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
    ) -> None:
        headers = urllib3.make_headers(basic_auth=f"{username}:{password}") if username else {}
        self._http = _Http(url, headers, connect_s=connect_s, read_s=read_s)
        self._database = database

    def prepare(self) -> None:
        """See InfluxServer: creates the database."""
        quoted = self._database.replace("\\", "\\\\").replace('"', '\\"')
        self._http.influxql([f'CREATE DATABASE "{quoted}"'], {})

    def write(self, lines: bytes) -> None:
        """See InfluxServer."""
        path = "/write?" + urlencode({"db": self._database, "precision": "ms"})
        status, body = self._http.post(path, _gzip(lines), {"Content-Encoding": "gzip"})
        check_write(status, body, self._http.url)

    def query(self, statements: Sequence[str]) -> list[list[Table]]:
        """See InfluxServer."""
        return self._http.influxql(statements, {"db": self._database})

    def delete_before(self, ts_ms: int) -> None:
        """See InfluxServer."""
        self.query([f"DELETE FROM {MEASUREMENT} WHERE time < {ts_ms}ms"])

    def close(self) -> None:
        """See InfluxServer."""
        self._http.close()


class InfluxV2:
    """InfluxDB 2.x at `url`: bucket `bucket` of organisation `org`. Writes go through `influxdb-client`."""

    def __init__(
        self, url: str, *, org: str, bucket: str, token: str, connect_s: float = CONNECT_S, read_s: float = READ_S
    ) -> None:
        self._http = _Http(url, {"Authorization": f"Token {token}"}, connect_s=connect_s, read_s=read_s)
        timeout_ms = (int(connect_s * 1000), int(read_s * 1000))
        self._client: Any = InfluxDBClient(url=url, token=token, org=org, timeout=timeout_ms, retries=False)
        self._writes = _write_service(self._client.api_client)
        self._org = org
        self._bucket = bucket

    def prepare(self) -> None:
        """See InfluxServer: creates the bucket when it is missing, and its mapping for InfluxQL."""
        bucket_id = self._call(self._bucket_id)
        status, body = self._http.get("/api/v2/dbrps?" + urlencode({"org": self._org, "db": self._bucket}))
        if status == 404:  # 3.x: /query knows every database by its name
            return
        if status != 200:
            raise_for(status, body, self._http.url)
        if self._bucket.encode() in body:
            return
        mapping = {
            "org": self._org,
            "bucketID": bucket_id,
            "database": self._bucket,
            "retention_policy": "autogen",
            "default": True,
        }
        status, body = self._http.post("/api/v2/dbrps", msgspec.json.encode(mapping), {"Content-Type": "application/json"})
        if status not in (200, 201):
            raise_for(status, body, self._http.url)

    def _bucket_id(self) -> str:
        buckets = self._client.buckets_api()
        try:
            found = buckets.find_bucket_by_name(self._bucket)
        except ApiException as error:
            if error.status != 404 or "bucket" not in str(error.body):  # "none" is an empty list in some versions, 404 in others
                raise
            found = None
        if found is None:
            for_ever = _retention(type="expire", every_seconds=0)
            found = buckets.create_bucket(bucket_name=self._bucket, org=self._org, retention_rules=[for_ever])
        return str(found.id)

    def write(self, lines: bytes) -> None:
        """See InfluxServer."""
        # The client's own write call hides the status: any 2xx, also of a machine that is no InfluxDB, would count as stored.
        status, body = self._call(self._post, lines)
        check_write(status, body, self._http.url)

    def _post(self, lines: bytes) -> tuple[int, bytes]:
        try:
            answer = self._writes.post_write_with_http_info(
                self._org, self._bucket, _gzip(lines), precision="ms", content_encoding="gzip"
            )
        except ApiException as error:
            return int(error.status or 0), _bytes(error.body or error.reason)
        return int(answer[1]), b""

    def query(self, statements: Sequence[str]) -> list[list[Table]]:
        """See InfluxServer."""
        return self._http.influxql(statements, {"db": self._bucket})

    def delete_before(self, ts_ms: int) -> None:
        """See InfluxServer."""
        stop = datetime.fromtimestamp(ts_ms / 1000, UTC) - timedelta(microseconds=1)  # 2.x deletes the stop itself, too
        begin = datetime(1970, 1, 1, tzinfo=UTC)
        self._call(self._client.delete_api().delete, begin, stop, f'_measurement="{MEASUREMENT}"', self._bucket, self._org)

    def _call(self, function: Any, *given: Any) -> Any:
        """Call the client; its errors become ours."""
        try:
            return function(*given)
        except ApiException as error:
            raise_for(int(error.status or 0), _bytes(error.body or error.reason), self._http.url)
        except InfluxDBError as error:  # the organisation is unknown: the only error of the client that no answer stands behind
            raise HistoryFault(
                f"InfluxDB at {self._http.url}: {error.message}: set FIELDLOOM_INFLUX_ORG", retryable=False
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise _down(self._http.url, error) from error
        except (ValueError, TypeError, AttributeError) as error:  # the client trips over an answer that is no InfluxDB's
            raise _impostor(self._http.url, "something", str(error)) from error

    def close(self) -> None:
        """See InfluxServer."""
        self._client.close()
        self._http.close()


class _Http:
    """Keep-alive HTTP with time limits and without hidden retries."""

    def __init__(self, url: str, headers: dict[str, str], *, connect_s: float, read_s: float) -> None:
        self.url = url.rstrip("/")
        timeout = urllib3.Timeout(connect=connect_s, read=read_s)
        self._pool = urllib3.PoolManager(headers=headers, timeout=timeout, retries=False, maxsize=4)
        self._headers = headers

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        return self._request("POST", path, body, headers)

    def get(self, path: str) -> tuple[int, bytes]:
        return self._request("GET", path, None, {})

    def _request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        try:
            response = self._pool.request(method, self.url + path, body=body, headers=self._headers | headers)
        except urllib3.exceptions.HTTPError as error:
            raise _down(self.url, error) from error
        return int(response.status), bytes(response.data)

    def influxql(self, statements: Sequence[str], parameters: dict[str, str]) -> list[list[Table]]:
        form = urlencode(parameters | {"epoch": "ms", "q": ";".join(statements)}).encode()
        status, body = self.post("/query", form, {"Content-Type": "application/x-www-form-urlencoded"})
        if status != 200:
            raise_for(status, body, self.url)
        try:
            results = _answer_decoder.decode(body).results
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _impostor(self.url, str(status), str(error)) from error
        for result in results:
            if result.error:
                _raise_query_error(result.error, self.url)
        if len(results) != len(statements):
            raise _impostor(self.url, str(status), f"{len(results)} results for {len(statements)} statements")
        return [result.series for result in results]

    def close(self) -> None:
        self._pool.clear()


def check_write(status: int, body: bytes, url: str) -> None:
    """Return when the answer to a write means "stored"; Refused or HistoryFault otherwise."""
    if status == 204 or _SABOTAGE == "influx_trusts_any_answer":
        return
    if status in (400, 413, 422):
        message = _message(body)
        _, _, dropped = message.rpartition("dropped=")
        raise Refused(message, dropped=int(dropped) if dropped.isdigit() else None, is_too_large=status == 413)
    raise_for(status, body, url)


def raise_for(status: int, body: bytes, url: str) -> NoReturn:
    """HistoryFault in words for an HTTP answer that is not a success."""
    message = _message(body)
    if status in (401, 403):
        raise HistoryFault(f"InfluxDB at {url}: token rejected: set FIELDLOOM_INFLUX_TOKEN ({status}: {message})", retryable=False)
    if status == 404:
        raise HistoryFault(f"InfluxDB at {url}: no such database, bucket or path: {message or 'not found'}", retryable=False)
    if 200 <= status < 300:
        raise _impostor(url, str(status), message)
    if status == 429 or status >= 500:
        raise HistoryFault(f"InfluxDB at {url} cannot answer now ({status}: {message}); trying again", retryable=True)
    raise HistoryFault(f"InfluxDB at {url} refused the request ({status}: {message})", retryable=False)


def _raise_query_error(message: str, url: str) -> NoReturn:
    if "timeout" in message or "interrupted" in message or "max-select" in message:
        raise QueryLimit(f"InfluxDB at {url} stopped the query: {message}; ask for a shorter range")
    raise HistoryFault(f"InfluxDB at {url}: {message}", retryable="not found" in message)


def _impostor(url: str, answer: str, detail: str) -> HistoryFault:
    sentence = f"{url} answered {answer}, but not as InfluxDB does ({detail[:120]}); nothing counts as written"
    return HistoryFault(f"{sentence}: check FIELDLOOM_INFLUX_URL and any proxy between", retryable=True)


def _down(url: str, error: Exception) -> HistoryFault:
    return HistoryFault(f"InfluxDB at {url} cannot be reached ({type(error).__name__}); trying again", retryable=True)


def _message(body: bytes) -> str:
    """The server's own words, shortened."""
    try:
        answer = _error_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:200].decode(errors="replace").strip()
    return (answer.error or answer.message)[:500]


def _bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode()


def _gzip(lines: bytes) -> bytes:
    """Level 1: six times faster than the default for 20 % more bytes."""
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    return packer.compress(lines) + packer.flush()
