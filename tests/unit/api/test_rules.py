"""The rules of a site over the API: state, standing alarms, versions."""

from pathlib import Path

import httpx

from api.application import make_app
from telemetry.site import RuleSpec
from tests.faults.web_world import config_record, fill, make_world, site


async def test_rules_with_state_standing_alarms_and_versions(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    fill(world)
    config = site("north")
    hotter = config.rules[0].model_copy(update={"version": 2, "when": "air_temp_c > 40"})
    trial = RuleSpec(id="TRIAL", profile="house", when="air_temp_c > 30", shadow=True)
    world.write(records=[config_record(config.model_copy(update={"rules": [hotter, trial]}))])
    transport = httpx.ASGITransport(make_app(world.parts), raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {world.token('ann', 'viewer', ['north'])}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as http:
        listed = (await http.get("/api/v1/sites/north/rules")).json()["items"]
        assert [(r["rule"], r["version"], r["state"], r["standing"]) for r in listed] == [
            ("HOT", 2, "enabled", 1), ("TRIAL", 1, "shadow", 0),
        ]  # fmt: skip
        assert listed[0]["alarm_changed_ms"] is not None
        hot = (await http.get("/api/v1/sites/north/rules/HOT")).json()
        assert hot["specification"]["when"] == "air_temp_c > 40"
        (version,) = hot["versions"]
        assert (version["what"], version["fields"]) == (
            "changed",
            [
                {"field": "version", "before": 1, "after": 2},
                {"field": "when", "before": "air_temp_c > 38", "after": "air_temp_c > 40"},
            ],
        )
        assert [v["what"] for v in (await http.get("/api/v1/sites/north/rules/TRIAL")).json()["versions"]] == ["added"]
        assert (await http.get("/api/v1/sites/north/rules/NONE")).status_code == 404
        assert (await http.get("/api/v1/sites/south/rules")).status_code == 404
    world.close()
