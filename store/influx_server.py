"""Talking HTTP to InfluxDB 1.x, 2.x and their look-alikes: two narrow transports, one classification of every wrong answer.

1.x: POST /write and /query. 2.x: POST /api/v2/write through `influxdb-client`, InfluxQL over /query with the token and the
database and retention policy that the bucket is mapped to. Flux is not used: 3.x no longer serves it.
A write has succeeded when the server answers 204 and at no other time.
"""

import os
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, NoReturn, Protocol
from urllib.parse import urlencode

import msgspec
import urllib3
from influxdb_client.client.exceptions import InfluxDBError
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.domain.bucket_retention_rules import BucketRetentionRules
from influxdb_client.domain.delete_predicate_request import DeletePredicateRequest
from influxdb_client.rest import ApiException
from influxdb_client.service.delete_service import DeleteService
from influxdb_client.service.write_service import WriteService

from store.history import HistoryFault, QueryLimit
from store.influx_lines import MEASUREMENT

CONNECT_S: Final = 2.0
READ_S: Final = 5.0
DELETE_S: Final = 60.0  # retention rewrites files on the server
WAIT_S_MAX: Final = 60.0  # of what a Retry-After may ask for
EARLIEST: Final = datetime(1678, 1, 1, tzinfo=UTC)  # 2.x refuses to delete before 1677-09-21
NOT_EXECUTED: Final = "not executed"
_GZIP: Final = 31  # zlib window bits that mean a gzip head
_write_service: Any = WriteService  # the client's classes have no annotations
_delete_service: Any = DeleteService
_delete_request: Any = DeletePredicateRequest
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
    """One series of an InfluxQL answer. The time column is in ms; NULL is None. partial: the server cut it off."""

    columns: list[str]
    values: list[list[float | None]]
    tags: dict[str, str] = {}
    partial: bool = False


class _Result(msgspec.Struct):
    series: list[Table] = []
    error: str = ""


class _Answer(msgspec.Struct):
    results: list[_Result]


class _Error(msgspec.Struct):
    error: str = ""
    message: str = ""


class _Mapping(msgspec.Struct):
    bucketID: str  # noqa: N815 - the server's name


class _Mappings(msgspec.Struct):
    content: list[_Mapping]


class Answer(NamedTuple):
    """An HTTP answer; wait_s: the Retry-After of one that asks for patience."""

    status: int
    body: bytes
    wait_s: float = 0.0


_answer_decoder: Final = msgspec.json.Decoder(_Answer)
_mappings_decoder: Final = msgspec.json.Decoder(_Mappings)
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
        check_write(self._http.post(path, _gzip(lines), {"Content-Encoding": "gzip"}), self._http.url)

    def query(self, statements: Sequence[str]) -> list[list[Table]]:
        """See InfluxServer."""
        return self._http.influxql(statements, {"db": self._database})

    def delete_before(self, ts_ms: int) -> None:
        """See InfluxServer."""
        self._http.influxql([f"DELETE FROM {MEASUREMENT} WHERE time < {ts_ms}ms"], {"db": self._database}, read_s=DELETE_S)

    def close(self) -> None:
        """See InfluxServer."""
        self._http.close()


class InfluxV2:
    """InfluxDB 2.x at `url`: bucket `bucket` of organisation `org` (its name or id). Writes go through `influxdb-client`.

    InfluxQL knows a bucket by a database and a retention policy. 2.7 maps the bucket "db/rp" to these, and "db" to "db/autogen",
    by itself; earlier servers are told. Both are named in each query: the database's default policy may be somebody else's.
    """

    def __init__(
        self, url: str, *, org: str, bucket: str, token: str, connect_s: float = CONNECT_S, read_s: float = READ_S
    ) -> None:
        self._http = _Http(url, {"Authorization": f"Token {token}"}, connect_s=connect_s, read_s=read_s)
        timeout_ms = (int(connect_s * 1000), int(read_s * 1000))
        self._client: Any = InfluxDBClient(url=self._http.url, token=token, org=org, timeout=timeout_ms, retries=False)
        self._writes = _write_service(self._client.api_client)
        self._deletes = _delete_service(self._client.api_client)
        self._delete_ms = (int(connect_s * 1000), int(DELETE_S * 1000))
        self._org = org
        self._bucket = bucket
        database, _, policy = bucket.partition("/")
        self._named = {"db": database, "rp": policy or "autogen"}

    def prepare(self) -> None:
        """See InfluxServer: creates the bucket when it is missing, and its mapping for InfluxQL where the server has none."""
        bucket = self._call(self._find_bucket)
        answer = self._http.get("/api/v2/dbrps?" + urlencode({"orgID": bucket.org_id} | self._named))
        if answer.status != 200:
            raise_for(answer, self._http.url)
        try:
            mapped = {mapping.bucketID for mapping in _mappings_decoder.decode(answer.body).content}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _impostor(self._http.url, "200", str(error)) from error
        if not mapped:
            self._map(bucket)
        elif mapped != {bucket.id}:
            name = "/".join(self._named.values())
            raise HistoryFault(
                f"InfluxDB at {self._http.url}: InfluxQL's {name} is mapped to another bucket than {self._bucket!r}: delete that "
                "mapping (influx v1 dbrp delete), or set FIELDLOOM_INFLUX_BUCKET to another name",
                retryable=False,
            )

    def _find_bucket(self) -> Any:
        """The bucket, made when it is missing. Asked for inside its organisation: a token may see others with a bucket of that name."""
        buckets = self._client.buckets_api()
        where = {"org_id" if _is_id(self._org) else "org": self._org}
        try:
            found = buckets.find_buckets(name=self._bucket, **where).buckets
        except ApiException as error:
            if error.status != 404 or "bucket" not in str(error.body):  # "none" is an empty list in some versions, 404 in others
                raise
            found = []
        if found:
            return found[0]
        for_ever = _retention(type="expire", every_seconds=0)
        return buckets.create_bucket(bucket_name=self._bucket, org=self._org, retention_rules=[for_ever])

    def _map(self, bucket: Any) -> None:
        database, policy = self._named.values()
        mapping = {
            "orgID": bucket.org_id,
            "bucketID": bucket.id,
            "database": database,
            "retention_policy": policy,
            "default": False,
        }
        answer = self._http.post("/api/v2/dbrps", msgspec.json.encode(mapping), {"Content-Type": "application/json"})
        if answer.status not in (200, 201):
            raise_for(answer, self._http.url)

    def write(self, lines: bytes) -> None:
        """See InfluxServer."""
        # The client's own write call hides the status: any 2xx, also of a machine that is no InfluxDB, would count as stored.
        check_write(self._call(self._post, lines), self._http.url)

    def _post(self, lines: bytes) -> Answer:
        try:
            answer = self._writes.post_write_with_http_info(
                self._org, self._bucket, _gzip(lines), precision="ms", content_encoding="gzip"
            )
        except ApiException as error:
            return _answer_of(error)
        return Answer(int(answer[1]), b"")

    def query(self, statements: Sequence[str]) -> list[list[Table]]:
        """See InfluxServer."""
        return self._http.influxql(statements, self._named)

    def delete_before(self, ts_ms: int) -> None:
        """See InfluxServer."""
        stop = datetime.fromtimestamp(ts_ms / 1000, UTC) - timedelta(microseconds=1)  # 2.x deletes the stop itself, too
        asked = _delete_request(start=EARLIEST, stop=stop, predicate=f'_measurement="{MEASUREMENT}"')
        self._call(lambda: self._deletes.post_delete(asked, org=self._org, bucket=self._bucket, _request_timeout=self._delete_ms))

    def _call(self, function: Any, *given: Any) -> Any:
        """Call the client; its errors become ours."""
        try:
            return function(*given)
        except ApiException as error:
            raise_for(_answer_of(error), self._http.url)
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
        self._timeout = urllib3.Timeout(connect=connect_s, read=read_s)
        self._pool = urllib3.PoolManager(retries=False, maxsize=4)
        self._headers = headers

    def post(self, path: str, body: bytes, headers: dict[str, str], *, read_s: float | None = None) -> Answer:
        return self._request("POST", path, body, headers, read_s)

    def get(self, path: str) -> Answer:
        return self._request("GET", path, None, {}, None)

    def _request(self, method: str, path: str, body: bytes | None, headers: dict[str, str], read_s: float | None) -> Answer:
        timeout = self._timeout if read_s is None else urllib3.Timeout(connect=self._timeout.connect_timeout, read=read_s)
        try:
            response = self._pool.request(method, self.url + path, body=body, headers=self._headers | headers, timeout=timeout)
        except urllib3.exceptions.HTTPError as error:
            raise _down(self.url, error) from error
        return Answer(int(response.status), bytes(response.data), _wait_s(response.headers.get("Retry-After")))

    def influxql(self, statements: Sequence[str], parameters: dict[str, str], *, read_s: float | None = None) -> list[list[Table]]:
        form = urlencode(parameters | {"epoch": "ms", "q": ";".join(statements)}).encode()
        answer = self.post("/query", form, {"Content-Type": "application/x-www-form-urlencoded"}, read_s=read_s)
        if answer.status != 200:
            raise_for(answer, self.url)
        try:
            results = _answer_decoder.decode(answer.body).results
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _impostor(self.url, str(answer.status), str(error)) from error
        for statement, result in zip(statements, results, strict=False):
            if result.error == NOT_EXECUTED and len(statements) > 1:  # 2.7 writes this over the reason: ask that one alone
                self.influxql([statement], parameters, read_s=read_s)
            if result.error:
                _raise_query_error(result.error, self.url)
            if any(table.partial for table in result.series):
                raise QueryLimit(
                    f"InfluxDB at {self.url} cut its answer off; set max-row-limit = 0 there, or ask for a shorter range"
                )
        if len(results) != len(statements):
            raise _impostor(self.url, str(answer.status), f"{len(results)} results for {len(statements)} statements")
        return [result.series for result in results]

    def close(self) -> None:
        self._pool.clear()


def check_write(answer: Answer, url: str) -> None:
    """Return when the answer to a write means "stored"; Refused or HistoryFault otherwise."""
    if answer.status == 204 or _SABOTAGE == "influx_trusts_any_answer":
        return
    if answer.status in (400, 413, 422):
        message = _message(answer.body)
        _, _, dropped = message.rpartition("dropped=")
        raise Refused(message, dropped=int(dropped) if dropped.isdigit() else None, is_too_large=answer.status == 413)
    raise_for(answer, url)


def raise_for(answer: Answer, url: str) -> NoReturn:
    """HistoryFault in words for an HTTP answer that is not a success."""
    status, message = answer.status, _message(answer.body)
    if status in (401, 403):
        raise HistoryFault(f"InfluxDB at {url}: token rejected: set FIELDLOOM_INFLUX_TOKEN ({status}: {message})", retryable=False)
    if status == 404 and "organization" in message:
        raise HistoryFault(f"InfluxDB at {url}: {message}: set FIELDLOOM_INFLUX_ORG", retryable=False)
    if status == 404:
        raise HistoryFault(f"InfluxDB at {url}: no such database, bucket or path: {message or 'not found'}", retryable=False)
    if 200 <= status < 300:
        raise _impostor(url, str(status), message)
    if status == 429 or status >= 500:
        sentence = f"InfluxDB at {url} cannot answer now ({status}: {message}); trying again"
        raise HistoryFault(sentence, retryable=True, wait_s=answer.wait_s)
    raise HistoryFault(f"InfluxDB at {url} refused the request ({status}: {message})", retryable=False)


def _raise_query_error(message: str, url: str) -> NoReturn:
    if "timeout" in message or "interrupted" in message or "max-select" in message:
        raise QueryLimit(f"InfluxDB at {url} stopped the query: {message}; ask for a shorter range")
    is_passing = "not found" in message or "limit exceeded" in message or message == NOT_EXECUTED
    raise HistoryFault(f"InfluxDB at {url}: {message}", retryable=is_passing)


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


def _answer_of(error: Any) -> Answer:
    """The HTTP answer that the client raised as an error."""
    body = error.body or error.reason
    return Answer(int(error.status or 0), body if isinstance(body, bytes) else str(body).encode(), _wait_s(error.retry_after))


def _wait_s(header: str | None) -> float:
    """Seconds of a Retry-After header; 0 when there is none, or a date."""
    return min(float(header), WAIT_S_MAX) if header is not None and header.isdecimal() else 0.0


def _is_id(org: str) -> bool:
    return len(org) == 16 and all(letter in "0123456789abcdef" for letter in org)


def _gzip(lines: bytes) -> bytes:
    """Level 1: six times faster than the default for 20 % more bytes."""
    packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
    return packer.compress(lines) + packer.flush()
