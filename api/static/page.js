// The overview of one site. Reads tables once over REST, then lives from the feed. Ages count here against the server's clock and need
// no message to advance: what is silent looks silent within 6 s. Text is written to text nodes only, so a hostile name stays text.
"use strict";

const SLOW_MS = 3000, DEAD_MS = 5000, TICK_MS = 500, DEVICES_SHOWN = 50, ROWS_SHOWN = 20, RETRY_MAX_MS = 15000, TOLD_MS = 5000;
const UNANSWERED = ["UNACK", "RTNUN"];
const THIN = "\u2009", MINUS = "\u2212", DASH = "\u2014";

const page = {
  me: null, sites: [], site: null, points: new Map(), devices: new Map(), alarms: new Map(), commands: new Map(), rejects: [], pending: new Map(), told: new Map(),
  socket: null, attempts: 0, heardAt: 0, beat: null, beatAt: 0, rates: [], isFull: false,
};
const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SHAPES = { P1: "M3 3H33V33H3Z", P2: "M18 2L34 33H2Z", P3: "M2 3H34L18 34Z", P4: "M18 2A16 16 0 1 1 17.9 2Z", off: "M8 8H28A8 10 0 0 1 28 28H8A8 10 0 0 1 8 8Z" };
const LETTERS = { SHLVD: "S", DSUPR: "D", OOSRV: "O" };

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

async function ask(path, options = {}) {
  const answer = await fetch(`/api/v1${path}`, { headers: { "Content-Type": "application/json", "X-Fieldloom": "1" }, ...options });
  if (answer.status === 401) { location.replace("/login"); throw new Error("login"); }
  const body = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw new Error([body.detail, ...(body.errors ?? []).map((e) => e.message)].join(" "));
  return body;
}

// -- time and numbers ------------------------------------------------------------------------------------------------------------

const now = () => (page.beat ? page.beat.now_ms + performance.now() - page.beatAt : Date.now());

function age(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  const [value, unit] = s < 120 ? [s, "second"] : s < 7200 ? [Math.floor(s / 60), "minute"] : s < 172800 ? [Math.floor(s / 3600), "hour"] : [Math.floor(s / 86400), "day"];
  return `${value}${language === "zh" ? "" : THIN}${word(unit)}`;
}

const zone = () => page.sites.find((s) => s.site === page.site)?.zone;
const time = (ms) => new Intl.DateTimeFormat(language === "zh" ? "zh-CN" : "en-GB", { timeStyle: "medium", timeZone: zone(), hour12: false }).format(ms);
const number = (value, decimals) => value.toFixed(decimals).replace(/^-(?=[0.]*$)/, "").replace("-", MINUS);
// Names come from people and devices: what would turn the direction of the text around them, or is no text, is left out.
const inert = (text) => String(text).replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "");
const label = (text, fallback) => inert((text && (text[language] || text.en || text.zh)) || fallback);
// Names in files are plain letters; people read the signs.
const SIGNS = { C: "°C", K: "K", deg: "°", "umol/m2/s": "µmol/m²/s", "W/m2": "W/m²", m3: "m³", bool: "" };
const sign = (unit) => SIGNS[unit] ?? unit;
const called = (device) => label(page.devices.get(device)?.device.label, device);
const withUnit = (text, given) => joined(text, sign(given));
const spoken = (text) => (text === undefined ? undefined : word(text));
const joined = (text, unit) => (unit === "%" || unit === "°" ? text + unit : unit && unit !== "1" ? text + THIN + unit : text);

// -- tiles -----------------------------------------------------------------------------------------------------------------------

function makeTile(point) {
  const digits = make("span", "number"), unit = make("span", "unit"), code = make("span", "code"), old = make("span", "age"), norm = make("span", "norm");
  const name = make("span", "name");
  const node = make("div", "tile", name, make("span", "value", digits, unit), code, " ", old, make("div", "", norm));
  const slot = { point, node, digits, unit, code, old, norm, name, latest: point.latest, good: null, isDirty: true };
  page.points.set(point.number, slot);
  return node;
}

function codeOf(slot) {
  const { latest } = slot;
  if (latest.ts_ms === null) return word("never");
  const why = latest.reasons.map((r) => word(r === "rate" ? "rate_reason" : r)).join(" ");
  if (latest.quality === "BAD") {
    const good = slot.good === null ? "" : ` · ${word("lastGood", { value: number(slot.good, slot.point.decimals) })}`;
    return `${word("bad")} ${why}${good}`;
  }
  return latest.quality === "UNCERTAIN" ? `${word("uncertain")} ${why}` : "";
}

function drawTile(slot) {
  const { point, latest, node } = slot;
  say(slot.name, label(point.label, point.point));
  slot.name.title = `${slot.name.textContent} · ${point.point}`;
  const isKnown = latest.value !== null && latest.ts_ms !== null;
  if (isKnown && latest.quality === "GOOD") slot.good = latest.value;
  const shown = !isKnown ? DASH : spoken(point.labels?.[latest.value]) ?? number(latest.value, point.decimals);
  say(slot.digits, shown);
  say(slot.unit, isKnown && !point.labels ? withUnit("", point.unit) : "");
  node.dataset.quality = latest.quality ?? "NONE";
  say(slot.norm, point.band ? word("band", { low: number(point.band[0], point.decimals), high: number(point.band[1], point.decimals) }) : "");
  node.classList.toggle("outside", isKnown && point.band !== null && (latest.value < point.band[0] || latest.value > point.band[1]));
  say(slot.code, codeOf(slot));
  slot.isDirty = false;
}

function ageTile(slot) {
  const { latest, point, node } = slot;
  if (latest.ts_ms === null) { node.dataset.age = "never"; say(slot.old, ""); return; }
  const ms = now() - latest.ts_ms, beats = ms / (point.heartbeat_s * 1000);
  node.dataset.age = beats > 3 ? "stale" : beats > 1.5 ? "late" : "fresh";
  say(slot.old, beats > 3 ? `${word("silent")} ${age(ms)}` : age(ms));
}

// -- devices and actuators -------------------------------------------------------------------------------------------------------

function drawDevices(devices, points) {
  const list = at("device-list");
  list.replaceChildren();
  page.points.clear();
  page.devices.clear();
  for (const device of devices) {
    const seen = make("span", "hint"), title = make("h3");
    const slot = { device, seen, title, actuators: [] };
    const tiles = make("div", "tiles", ...points.filter((p) => p.device === device.device).map(makeTile));
    const node = make("div", "device", make("header", "", title, seen), tiles);
    for (const actuator of device.actuators) {
      const made = makeActuator(device, actuator);
      slot.actuators.push(made);
      node.append(made.node);
    }
    page.devices.set(device.device, slot);
    list.append(node);
  }
  if (!devices.length) list.append(make("p", "empty", word("noDevices")));
  say(at("device-count"), page.isFull ? `${devices.length}+` : String(devices.length));
}

function makeActuator(device, actuator) {
  const name = make("strong"), flow = make("span", "flow"), why = make("span", "why");
  const bar = document.createElementNS(SVG, "svg");
  bar.setAttribute("class", "travel");
  bar.setAttribute("viewBox", "0 0 100 10");
  bar.setAttribute("preserveAspectRatio", "none");
  const rects = ["track", "fill", "mark"].map((kind) => {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("class", kind);
    rect.setAttribute("height", kind === "mark" ? 10 : 6);
    rect.setAttribute("y", kind === "mark" ? 0 : 2);
    bar.append(rect);
    return rect;
  });
  rects[0].setAttribute("width", 100);
  return { device, actuator, name, flow, why, rects, node: make("div", "actuator", name, flow, bar, why) };
}

// Where an actuator stands or shall stand: a switch in words, the rest as a number with its unit.
function stand(actuator, value) {
  if (value === null || value === undefined) return DASH;
  if (actuator?.kind === "switch") return word(value > actuator.low ? "on" : "off");
  return withUnit(number(value, 0), actuator?.unit);
}

function drawActuator(slot) {
  const { actuator, device, rects } = slot;
  const feedback = [...page.points.values()].find((s) => s.point.device === device.device && s.point.point === actuator.feedback_point);
  const measured = feedback && feedback.latest.quality !== "BAD" ? feedback.latest.value : null;
  const command = page.commands.get(actuator.command);
  const wanted = command ? command.value : actuator.commanded, state = command ? command.state : actuator.state;
  const show = (value) => stand(actuator, value);
  const hand = actuator.mode === "AUTO" ? "" : ` · ${word(`mode_${actuator.mode}`)}`;
  say(slot.name, label(actuator.label, actuator.actuator) + hand);
  say(slot.flow, `${show(wanted)} ${actuator.feedback_point ? `→ ${word("feedback")} ${show(measured)}` : `· ${word("noFeedback")}`}`);
  const reason = command ? because(command) : actuator.reason && because({ reason: actuator.reason });
  const words = state ? word(state === "refused" ? "refused_state" : state) : word("noCommand");
  say(slot.why, reason ? `${words} · ${word("because", { reason })}` : words);
  const share = (value) => Math.min(100, Math.max(0, (100 * (value - actuator.low)) / (actuator.high - actuator.low)));
  rects[1].setAttribute("width", measured === null ? 0 : share(measured));
  rects[2].setAttribute("width", wanted === null ? 0 : 1);
  rects[2].setAttribute("x", wanted === null ? 0 : Math.min(99, share(wanted)));
}

function drawDevice(slot) {
  const { device } = slot;
  const name = label(device.label, device.device);
  say(slot.title, name.includes(device.device) ? name : `${name} · ${device.device}`);
  const newest = Math.max(device.last_seen_ms ?? 0, ...[...page.points.values()].filter((s) => s.point.device === device.device).map((s) => s.latest.ts_ms ?? 0));
  const state = device.status === "offline" ? ` · ${word("offline")}` : "";
  say(slot.seen, (newest ? word("seen", { age: age(now() - newest) }) : word("unseen")) + state);
  slot.actuators.forEach(drawActuator);
}

// -- lists -----------------------------------------------------------------------------------------------------------------------

function badge(alarm) {
  const kind = LETTERS[alarm.state] ? "off" : SHAPES[alarm.priority] ? alarm.priority : "P4";
  const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 36 36");
  path.setAttribute("d", SHAPES[kind]);
  svg.append(path);
  const node = make("span", "badge", svg, make("b", "", LETTERS[alarm.state] ?? alarm.priority.slice(1)));
  node.dataset.p = kind;
  node.dataset.state = alarm.state;
  return node;
}

function sentence(alarm) {
  const value = alarm.evidence.value_at_raise ?? alarm.evidence.value;
  const shown = typeof value === "number" ? number(value, Number.isInteger(value) ? 0 : 1) : "";
  return label(alarm.message, alarm.rule).replaceAll("{value}", shown).replaceAll("{device}", called(alarm.device));
}

const REST = "nobody asks: rest", FAIL_SAFE = "fail-safe after ";

// A rule with a message gives it as its reason: filled in from its alarm while that stands, else by the rule's name.
function because(command) {
  if (command.reason === REST) return word("rest");
  if (command.reason.startsWith(FAIL_SAFE)) return word("failSafe", { id: command.reason.slice(FAIL_SAFE.length) });
  const source = command.evidence?.winner?.source ?? "", rule = source.split("@")[0], alarm = page.alarms.get(source);
  if (alarm) return `${rule} · ${sentence(alarm)}`;
  if (!source.includes("@")) return inert(command.reason);
  return command.reason.includes("{") ? rule : `${rule} · ${inert(command.reason)}`;
}

const order = (alarm) => [alarm.priority || "P9", UNANSWERED.includes(alarm.state) ? 0 : 1, -alarm.changed_ms];
function worstFirst(a, b) {
  const x = order(a), y = order(b);
  for (let i = 0; i < x.length; i += 1) if (x[i] !== y[i]) return x[i] < y[i] ? -1 : 1;
  return a.subject < b.subject ? -1 : 1;
}

async function acknowledge(alarm) {
  page.pending.set(alarm.subject, { said: word("acknowledging"), request: null });
  drawAlarms();
  try {
    const path = `/sites/${alarm.site}/alarms/${alarm.device}/${encodeURIComponent(alarm.rule)}/acknowledge`;
    const { request } = await ask(path, { method: "POST", body: JSON.stringify({ id: crypto.randomUUID().replaceAll("-", "") }) });
    page.pending.set(alarm.subject, { said: word("acknowledging"), request });
  } catch (error) {
    page.pending.set(alarm.subject, { said: word("refused", { reason: error.message }), request: null });
  }
  drawAlarms();
}

function alarmRow(alarm) {
  const pending = page.pending.get(alarm.subject);
  const when = make("span", "when", `${word(alarm.state)} · ${word("since", { age: age(now() - alarm.raised_ms) })}`);
  const words = make("div", "words", make("strong", "", sentence(alarm)), make("span", "place", `${alarm.device} · ${alarm.rule}`), when);
  const row = make("li", "row", badge(alarm), words);
  if (alarm.assignee) words.append(make("span", "place", word("assignee", { name: inert(alarm.assignee) })));
  if (page.told.has(alarm.subject)) words.append(make("span", "place", toldOf(alarm)));
  if (pending?.said) words.append(make("span", "place", pending.said));
  if (UNANSWERED.includes(alarm.state)) {
    const button = make("button", "", word("acknowledge"));
    button.type = "button";
    button.disabled = pending?.request !== undefined && pending.said === word("acknowledging") || link() === "dead" || page.me.role === "viewer";
    if (page.me.role === "viewer") button.title = word("readOnly");
    button.addEventListener("click", () => acknowledge(alarm));
    row.append(button);
  }
  row.dataset.subject = alarm.subject;
  return row;
}

// Whom the notify process has told, and what it does next. It is not on the feed: asked for while something waits for an answer.
function toldOf(alarm) {
  const { told, next_ms, next_to } = page.told.get(alarm.subject), names = (list) => list.map(inert).join(language === "zh" ? "、" : ", ");
  const so = told.length ? word("told", { names: names(told) }) : word("toldNobody");
  return next_ms === null || alarm.state === "ACKED" ? so : `${so} · ${word("toldNext", { names: names(next_to), time: time(next_ms) })}`;
}

async function followTold() {
  if (![...page.alarms.values()].some((alarm) => UNANSWERED.includes(alarm.state)) || link() === "dead") return;
  const { items } = await ask(`/alarms?site=${encodeURIComponent(page.site)}`);
  const told = new Map(items.filter((alarm) => alarm.escalation).map((alarm) => [alarm.subject, alarm.escalation]));
  const changed = JSON.stringify([...told]) !== JSON.stringify([...page.told]);
  page.told = told;
  if (changed) drawAlarms();
}

// Nothing moves under a finger: while the list is pointed at or focused, rows keep their place and new ones come last.
function drawAlarms() {
  const list = at("alarm-list"), sorted = [...page.alarms.values()].sort(worstFirst);
  if (list.matches(":hover, :focus-within")) {
    const places = new Map([...list.children].map((row, i) => [row.dataset.subject, i]));
    sorted.sort((a, b) => (places.get(a.subject) ?? 1e9) - (places.get(b.subject) ?? 1e9));
  }
  const focused = document.activeElement?.closest?.("#alarm-list .row")?.dataset.subject;
  list.replaceChildren(...sorted.map(alarmRow));
  if (focused) [...list.children].find((row) => row.dataset.subject === focused)?.querySelector("button")?.focus();
  if (!sorted.length) list.append(make("li", "empty", link() === "live" ? `${word("noAlarms")} · ${word("live")} ${time(now())}` : word("unsure")));
}

const actuatorOf = (c) => page.devices.get(c.device)?.actuators.find((a) => a.actuator.actuator === c.actuator)?.actuator;
const actuatorName = (c) => label(actuatorOf(c)?.label, c.actuator);

const newestCommands = () => [...page.commands.values()].sort((a, b) => b.position - a.position);

function drawCommands() {
  const newest = newestCommands().slice(0, ROWS_SHOWN);
  at("command-list").replaceChildren(...newest.map((c) => {
    const value = stand(actuatorOf(c), c.value);
    const state = make("span", "chip", word(c.state === "refused" ? "refused_state" : c.state));
    const words = make("div", "words", make("strong", "", `${called(c.device)} · ${actuatorName(c)} → ${value}`), make("span", "place", because(c)),
      make("span", "when", c.steps.map(([name, ms]) => `${word(name === "refused" ? "refused_state" : name)} ${time(ms)}`).join(" → ")));
    return make("li", "row plain", words, state);
  }));
  if (!newest.length) at("command-list").append(make("li", "empty", word("noCommands")));
}

function drawRejects() {
  at("reject-list").replaceChildren(...page.rejects.slice(0, ROWS_SHOWN).map((r) => make("li", "row plain", make("div", "words",
    make("strong", "", word(r.reason)), make("span", "place", inert(r.topic)), make("span", "place", inert(r.evidence.detail ?? "")),
    make("pre", "", r.payload_text.slice(0, 400))), make("span", "hint", time(r.time_ms)))));
  if (!page.rejects.length) at("reject-list").append(make("li", "empty", word("noRejects")));
}

// An area's mode, the day of its batch, and whether alarms flood it.
function drawAreas() {
  const areas = page.sites.find((s) => s.site === page.site)?.areas ?? [];
  at("areas").replaceChildren(...areas.map((area) => make("li", "", [label(area.label, area.name), word(area.mode),
    area.batch === null ? "" : word("batch", { name: inert(area.batch), day: area.day_of_batch }), area.flood_since_ms === null ? "" : word("flood")].filter(Boolean).join(" · "))));
}

// -- the state of the link ---------------------------------------------------------------------------------------------------------

function link() {
  if (!page.beat) return "connecting";
  const silent = performance.now() - page.heardAt, core = page.beat.core_silent_ms + performance.now() - page.beatAt;
  if (silent > DEAD_MS || core > DEAD_MS || page.socket?.readyState !== WebSocket.OPEN) return "dead";
  return silent > SLOW_MS || core > SLOW_MS ? "slow" : "live";
}

function drawLink() {
  const state = link(), was = document.body.dataset.link;
  document.body.dataset.link = state;
  const isOpen = page.socket?.readyState === WebSocket.OPEN && performance.now() - page.heardAt <= DEAD_MS;
  say(at("link"), state === "live" ? `${word("live")} ${time(now())}` : word(state === "dead" && isOpen ? "coreSilent" : state));
  const banner = at("banner");
  banner.hidden = state !== "dead";
  if (state === "dead") {
    const last = page.beat.now_ms - page.beat.core_silent_ms;
    say(banner, [word(isOpen ? "coreSilent" : "dead"), word("frozen", { time: time(last) }), isOpen ? "" : word("reconnect", { n: page.attempts })].filter(Boolean).join(" · "));
    say(at("alarm-note"), word("upTo", { time: time(last) }));
  } else {
    say(at("alarm-note"), page.beat?.blind ? word("blind") : "");
  }
  if (was !== state) drawAlarms();
}

function drawFigures() {
  const standing = [...page.alarms.values()], silent = [...page.devices.values()].filter((d) => {
    const tiles = [...page.points.values()].filter((s) => s.point.device === d.device.device);
    return tiles.length > 0 && tiles.every((s) => s.node.dataset.age === "stale" || s.node.dataset.age === "never");
  });
  const [first, last] = [page.rates[0], page.rates.at(-1)];
  const rate = page.rates.length > 1 && link() === "live" ? ((last[1] - first[1]) / (last[0] - first[0])) * 1000 : null;
  const figures = [["rate", rate === null ? DASH : number(rate, rate < 10 ? 1 : 0)], ["standing", standing.length],
    ["unacked", standing.filter((a) => UNANSWERED.includes(a.state)).length], ["silentDevices", silent.length], ["rejectCount", page.rejects.length],
    ["position", page.beat ? page.beat.position : DASH]];
  const list = at("numbers");
  if (list.children.length !== figures.length) list.replaceChildren(...figures.map(() => make("div", "", make("dt"), make("dd"))));
  figures.forEach(([key, value], i) => { say(list.children[i].firstChild, word(key)); say(list.children[i].lastChild, String(value)); });
  const worst = standing.filter((a) => !LETTERS[a.state]).sort(worstFirst)[0];
  const calm = link() === "live" ? word("noAlarms") : word("unsure");
  at("worst").replaceChildren(...(worst ? [`${worst.priority} ${sentence(worst)}`] : [calm]));
}

function tick() {
  if (!page.me) return;
  page.points.forEach(ageTile);
  page.devices.forEach(drawDevice);
  drawLink();
  drawFigures();
  for (const row of at("alarm-list").children) {
    const alarm = page.alarms.get(row.dataset.subject), when = row.querySelector(".when");
    if (alarm && when) say(when, `${word(alarm.state)} · ${word("since", { age: age(now() - alarm.raised_ms) })}`);
  }
  say(at("clock"), `${word("clock")} ${time(now())} ${zone() ?? ""}`);
}

// -- the feed ----------------------------------------------------------------------------------------------------------------------

const takers = {
  beat(message) {
    page.beat = message;
    page.beatAt = performance.now();
    page.rates.push([message.now_ms, message.messages]);
    if (page.rates.length > 6) page.rates.shift();
  },
  points(message) {
    for (const [n, value, ts_ms, quality] of message.rows) {
      const slot = page.points.get(n);
      if (!slot) continue;
      slot.latest = { value, ts_ms, quality: ["GOOD", "UNCERTAIN", "BAD", "BAD"][quality & 3], reasons: REASONS.filter((_, i) => quality & (4 << i)) };
      slot.isDirty = true;
    }
    page.points.forEach((slot) => { if (slot.isDirty) { drawTile(slot); ageTile(slot); } });
  },
  alarms({ items, is_first }) {
    if (is_first) page.alarms.clear();
    for (const alarm of items) page.alarms.set(alarm.subject, alarm);
    drawAlarms();
  },
  alarm({ item }) {
    if (item.state === "NORM") page.alarms.delete(item.subject); else page.alarms.set(item.subject, item);
    page.pending.delete(item.subject);
    drawAlarms();
  },
  commands({ items, is_first }) {
    if (is_first) page.commands.clear();
    for (const command of items) page.commands.set(command.id, command);
    drawCommands();
  },
  command({ item }) {
    page.commands.set(item.id, item);
    const slot = page.devices.get(item.device)?.actuators.find((a) => a.actuator.actuator === item.actuator);
    if (slot) slot.actuator.command = item.id;
    if (page.commands.size > 500) page.commands = new Map(newestCommands().slice(0, 250).map((c) => [c.id, c]));
    drawCommands();
  },
  reject({ item }) { page.rejects.unshift(item); page.rejects.length = Math.min(page.rejects.length, 200); drawRejects(); },
  request({ item }) {
    for (const [subject, pending] of page.pending) {
      if (pending.request !== item.id || item.accepted !== false) continue;
      page.pending.set(subject, { said: word("refused", { reason: item.reason }) });
      drawAlarms();
    }
  },
  area({ item }) {
    const found = page.sites.find((s) => s.site === item.site)?.areas.find((area) => area.name === item.name);
    if (found) Object.assign(found, item);
    drawAreas();
  },
  mode({ item }) {
    const slot = page.devices.get(item.device)?.actuators.find((a) => a.actuator.actuator === item.actuator);
    if (slot) drawActuator(Object.assign(slot, { actuator: Object.assign(slot.actuator, item) }));
  },
  config() { load().catch(() => {}); },
};
const REASONS = ["out_of_range", "rate", "stuck", "not_a_number", "device_uncertain", "device_bad", "substituted", "clock_wrong", "repeated"];

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1/feed?site=${encodeURIComponent(page.site)}`);
  page.socket = socket;
  page.rates = [];
  socket.addEventListener("message", (event) => {
    if (socket !== page.socket) return;
    page.heardAt = performance.now();
    page.attempts = 0;
    const message = JSON.parse(event.data);
    takers[message.type]?.(message);
  });
  socket.addEventListener("close", (event) => {
    if (socket !== page.socket) return;
    if (event.code === 4401) { location.replace("/login"); return; }
    page.attempts += 1;
    const wait = Math.min(RETRY_MAX_MS, 500 * 2 ** page.attempts) * (0.5 + Math.random() / 2);
    setTimeout(() => { if (socket === page.socket) load().then(connect, connect); }, wait);
  });
}

async function load() {
  const site = encodeURIComponent(page.site);
  const [sites, devices, points, rejects] = await Promise.all([
    ask("/sites"), ask(`/sites/${site}/devices?limit=${DEVICES_SHOWN}`), ask(`/sites/${site}/points?limit=1000`), ask(`/rejects?site=${site}&limit=50`)]);
  page.sites = sites.items;
  page.isFull = devices.next !== null;
  page.rejects = rejects.items;
  const chosen = sites.items.find((s) => s.site === page.site);
  at("devices").classList.toggle("simulated", chosen.origin !== "LIVE");
  at("origin").hidden = chosen.origin === "LIVE";
  drawDevices(devices.items, points.items);
  redraw();
}

function redraw() {
  const chosen = page.sites.find((s) => s.site === page.site);
  if (!chosen) return;
  say(at("title"), label(chosen.label, chosen.site));
  for (const option of at("site").options) say(option, label(page.sites.find((s) => s.site === option.value)?.label, option.value));
  say(at("origin"), chosen.origin === "LIVE" ? "" : word(chosen.origin === "REPLAY" ? "replay" : "simulated"));
  page.points.forEach(drawTile);
  drawAreas();
  drawAlarms();
  drawCommands();
  drawRejects();
  tick();
}

async function begin() {
  page.me = await ask("/session");
  page.sites = (await ask("/sites")).items;
  const chooser = at("site");
  chooser.replaceChildren(...page.sites.map((s) => { const o = make("option", "", label(s.label, s.site)); o.value = s.site; return o; }));
  if (!page.sites.length) { say(at("worst"), word("noSites")); setTimeout(begin, 3000); return; }
  const wanted = new URLSearchParams(location.search).get("site");
  page.site = page.sites.some((s) => s.site === wanted) ? wanted : page.sites[0].site;
  chooser.value = page.site;
  await load();
  connect();
}

at("site").addEventListener("change", (event) => {
  const address = new URL(location.href);
  address.searchParams.set("site", event.target.value);
  location.assign(address);
});
at("language").addEventListener("click", () => { keep("lang", language === "zh" ? "en" : "zh"); redraw(); });
at("theme").addEventListener("click", () => keep("theme", theme === "light" ? "dark" : "light"));
at("logout").addEventListener("click", () => ask("/session", { method: "DELETE" }).finally(() => location.replace("/login")));
at("alarm-list").addEventListener("pointerleave", drawAlarms);
dress();
setInterval(tick, TICK_MS);
setInterval(() => followTold().catch(() => {}), TOLD_MS);
begin().catch((error) => { if (error.message !== "login") { say(at("worst"), word("noService")); setTimeout(() => location.reload(), 5000); } });
