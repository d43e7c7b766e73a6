"""`fieldloom rules`: versions of a rule, a diff of two, and switching one on and off, against a served web process."""

import asyncio
from pathlib import Path

import httpx

from tests.faults.process import DEADLINE_S
from tests.faults.web_process import CoreStub, WebProcess, web_process
from tests.faults.web_world import config_record, site
from tests.unit.app.test_alarm_commands import answered
from tests.unit.app.test_cli import fieldloom


async def kept(web: WebProcess, token: str, count: int) -> None:
    """Until the history has so many versions of the rule."""
    path = f"{web.base_url}/api/v1/sites/north/rules/HOT/versions"
    async with (
        httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=DEADLINE_S) as http,
        asyncio.timeout(DEADLINE_S),
    ):
        while len((await http.get(path)).json().get("items", [])) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_versions_of_a_rule_are_listed_compared_and_made(tmp_path: Path) -> None:
    core, north = CoreStub.begin(tmp_path), site("north")
    second = north.rules[0].model_copy(update={"version": 2, "when": "air_temp_c > 40", "author": "li", "comment": "new screen"})
    core.write(records=[config_record(north.model_copy(update={"rules": [second]}))])
    async with web_process(tmp_path, core) as web, answered(web):
        served = {"url": web.base_url, "token": web.token("wang", "engineer", ["north"]), "data_dir": tmp_path}

        async def rules(*words: str, **environment: object) -> list[str]:
            done = await asyncio.to_thread(fieldloom, "rules", *words, **{**served, **environment})
            return [line.rstrip() for line in (done.stdout + done.stderr).splitlines()]

        await kept(web, served["token"], 2)
        listed, compared = await asyncio.gather(rules("versions", "HOT"), rules("diff", "HOT"))
        off = await rules("disable", "HOT", "--comment", "[bold]too many")
        everywhere = await rules("shadow", "HOT", token=web.token("ann", "engineer", None))
        shadow = await rules("shadow", "HOT", "--site", "north")
        await kept(web, served["token"], 4)
        later, either = await asyncio.gather(rules("versions", "HOT"), rules("diff", "HOT", "--from", "1", "--to", "3"))
    core.journal.close()
    assert [line.split()[:2] for line in listed] == [["north/HOT"], ["version", "state"], ["2", "enabled"], ["1", "enabled"]]
    assert listed[2].endswith("| li | new screen")
    assert listed[3].endswith("| test")
    assert everywhere == ["fieldloom: say which site with --site; known: north, south"]
    assert [line.split(":")[0].split(" |")[0] for line in compared] == [
        "version 1", "version 2", "    version", "    author", "    comment", "    when",
    ]  # fmt: skip
    assert compared[-1] == "    when: air_temp_c > 38 -> air_temp_c > 40"
    assert (off[0], off[-1]) == ("changed HOT", "    enabled: True -> False")
    assert shadow == ["removed HOT", "added HOT shadow"]
    assert [line.split()[:2] for line in later[2:4]] == [["-", "removed"], ["3", "disabled"]]
    assert later[3].endswith("| wang | [bold]too many")
    assert "    enabled: True -> False" in either
