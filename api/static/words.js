// Words in both languages, the theme and the language itself. Loaded before the page is drawn, so that nothing flashes.
"use strict";

const WORDS = {
  zh: {
    devices: "设备", alarms: "报警", commands: "指令", rejects: "被拒消息", logout: "退出", login: "登录", token: "一次性链接中的口令或访问令牌",
    site: "站点", light: "浅色", dark: "深色", other: "English", live: "实时", slow: "延迟", dead: "连接中断", connecting: "正在连接",
    coreSilent: "采集核心无响应", frozen: "画面为 {time} 的数据", reconnect: "第 {n} 次重连", noAlarms: "无报警", unsure: "报警情况无法确认",
    upTo: "列表截至 {time}，可能不完整", acknowledge: "确认", acknowledging: "确认中…", acked: "已确认", refused: "未成功：{reason}",
    since: "{age}前", never: "无数据", silent: "停更", bad: "坏值", uncertain: "存疑", lastGood: "最后有效 {value}", band: "正常 {low}–{high}",
    position: "日志位置", rate: "消息/秒", standing: "活动报警", unacked: "未确认", silentDevices: "静默设备", rejectCount: "被拒", seen: "最近上报 {age}前",
    unseen: "从未上报", noCommands: "暂无指令", noRejects: "没有被拒消息", noDevices: "尚未配置设备", noSites: "没有可见的站点", noCommand: "无指令",
    feedback: "实测", noFeedback: "无反馈", because: "原因：{reason}", returned: "已恢复待确认", simulated: "仿真站点：非真实设备", replay: "回放站点：历史录像",
    rest: "无需求，回到静止位", failSafe: "指令 {id} 失败后的安全位", readOnly: "当前角色只能查看", working: "正在登录…", wrong: "链接或口令无效：错误、已使用、已过期或已撤销。请索取新的链接。", tooMany: "尝试过多，请 {n} 秒后再试。",
    noService: "服务没有应答，请稍后再试。", clock: "站点时间", blind: "盲区：积压数据补收中，列表可能不完整",
    UNACK: "未确认", ACKED: "已确认", RTNUN: "已恢复待确认", SHLVD: "搁置", DSUPR: "按设计抑制", OOSRV: "停用", LATCH: "待复位",
    AUTO: "自动", EMPTY: "空置", WASHDOWN: "冲洗", DISINFECT: "消毒", PREHEAT: "预热", OCCUPIED: "使用中", STORM: "防风", FROST: "防冻", SPRAYING: "喷药",
    MAINTENANCE: "检修", batch: "批次 {name} 第 {day} 天", flood: "报警洪流", assignee: "负责人 {name}",
    told: "已通知 {names}", toldNobody: "尚未通知任何人", toldNext: "{time} 通知 {names}",
    requested: "已提交", authorised: "已授权", queued: "排队等待", mode_MANUAL: "手动", mode_LOCAL: "就地控制", mode_OFF: "现场停用", sent: "已下发", accepted: "设备已接受", confirmed: "反馈到位", refused_state: "被拒绝", expired: "已过期",
    superseded: "被取代", lost: "无应答", failed_safe: "已回安全位",
    out_of_range: "超量程", rate_reason: "变化过快", stuck: "卡死", not_a_number: "非数值", device_uncertain: "设备存疑", device_bad: "设备报坏",
    substituted: "替代值", clock_wrong: "时钟错误", repeated: "重复", calibration_expired: "校准过期", disagreement: "传感器读数不一致",
    on: "开", off: "关", open: "打开", closed: "关闭", dry: "无雨", rain: "有雨", malformed: "格式错误", unknown_point: "未知测点", virtual_point: "虚拟测点（由系统计算）", unknown_device: "未知设备",
    unknown_site: "未知站点", value: "值无效", topic: "主题无效", too_large: "消息过大", unit: "单位不符", version: "版本不支持",
    retained: "保留消息", sequence: "序号无效", timestamp: "时间无效", too_many_rows: "行数过多", packed: "打包格式错误", members: "成员数不符", offline: "离线", second: "秒", minute: "分", hour: "时", day: "天",
  },
  en: {
    devices: "Devices", alarms: "Alarms", commands: "Commands", rejects: "Rejected messages", logout: "Log out", login: "Log in",
    token: "Token of the one-time link, or access token", site: "Site", light: "Light", dark: "Dark", other: "中文", live: "Live", slow: "Delayed",
    dead: "Connection lost", connecting: "Connecting", coreSilent: "The core is silent", frozen: "the picture is of {time}", reconnect: "attempt {n}",
    noAlarms: "No alarms", unsure: "Alarms cannot be confirmed", upTo: "List as of {time}, may be incomplete", acknowledge: "Ack",
    acknowledging: "Sending…", acked: "acknowledged", refused: "Not done: {reason}", since: "{age} ago", never: "No data", silent: "STALE", bad: "BAD",
    uncertain: "UNC", lastGood: "last good {value}", band: "normal {low}–{high}", position: "Journal position", rate: "Messages/s", standing: "Alarms",
    unacked: "Unacknowledged", silentDevices: "Silent devices", rejectCount: "Rejected", seen: "heard {age} ago", unseen: "never heard",
    noCommands: "No commands yet", noRejects: "Nothing was rejected", noDevices: "No devices configured yet", noSites: "No site that you may see",
    noCommand: "no command", feedback: "measured", noFeedback: "no feedback", because: "because: {reason}", returned: "returned, unacknowledged",
    simulated: "Simulated site: these are not real devices", replay: "Replayed site: this is a recording", rest: "nothing is asked for: rest", failSafe: "safe position after {id}", readOnly: "Your role may only look",
    working: "Logging in…", wrong: "This link or token does not hold: wrong, used, expired or revoked. Ask for a new one.",
    tooMany: "Too many attempts. Try again in {n} s.", noService: "The service does not answer. Try again soon.", clock: "Site time", blind: "Blind: the backlog is being read, the list may be incomplete",
    UNACK: "unacknowledged", ACKED: "acknowledged", RTNUN: "returned, unacknowledged", SHLVD: "shelved", DSUPR: "suppressed by design", OOSRV: "out of service", LATCH: "to be reset",
    AUTO: "automatic", EMPTY: "empty", WASHDOWN: "wash-down", DISINFECT: "disinfection", PREHEAT: "preheating", OCCUPIED: "occupied", STORM: "storm",
    FROST: "frost", SPRAYING: "spraying", MAINTENANCE: "maintenance", batch: "batch {name}, day {day}", flood: "flood of alarms", assignee: "taken by {name}",
    told: "told {names}", toldNobody: "nobody told yet", toldNext: "next {names} at {time}",
    requested: "requested", authorised: "authorised", queued: "waiting", mode_MANUAL: "by hand", mode_LOCAL: "local at the panel", mode_OFF: "off at the panel", sent: "sent", accepted: "accepted by the device", confirmed: "confirmed", refused_state: "refused",
    expired: "expired", superseded: "superseded", lost: "no answer", failed_safe: "in safe position",
    out_of_range: "out of range", rate_reason: "changed too fast", stuck: "stuck", not_a_number: "not a number", device_uncertain: "device unsure",
    device_bad: "device says bad", substituted: "substituted", clock_wrong: "clock wrong", repeated: "repeated", calibration_expired: "calibration expired", disagreement: "sensors disagree",
    malformed: "malformed", unknown_point: "unknown point", virtual_point: "computed point", unknown_device: "unknown device", unknown_site: "unknown site",
    value: "invalid value", topic: "invalid topic", too_large: "too large", unit: "wrong unit", version: "unsupported version",
    retained: "retained message", sequence: "invalid sequence", timestamp: "invalid time", too_many_rows: "too many rows",
    packed: "invalid packed form", members: "wrong number of members", on: "on", off: "off", open: "open", closed: "closed", dry: "dry", rain: "rain", offline: "offline", second: "s",
    minute: "min", hour: "h", day: "d",
  },
};

const asked = new URLSearchParams(location.search);
const choose = (name, given, fallback) => {
  const value = asked.get(name) || localStorage.getItem(name);
  return given.includes(value) ? value : fallback;
};
let language = choose("lang", ["zh", "en"], (navigator.language || "zh").startsWith("zh") ? "zh" : "en");
let theme = choose("theme", ["light", "dark"], matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

const word = (key, values = {}) => (WORDS[language][key] ?? key).replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
const say = (node, text) => { if (node.textContent !== text) node.textContent = text; };

function dress() {
  document.documentElement.lang = language;
  document.documentElement.dataset.theme = theme;
  for (const node of document.querySelectorAll("[data-word]")) say(node, word(node.dataset.word));
  for (const node of document.querySelectorAll("[data-name]")) node.setAttribute("aria-label", word(node.dataset.name));
  const other = document.getElementById("language");
  if (other) { say(other, word("other")); other.lang = language === "zh" ? "en" : "zh"; }
  const shade = document.getElementById("theme");
  if (shade) say(shade, word(theme === "light" ? "dark" : "light"));
}

function keep(name, value) {
  localStorage.setItem(name, value);
  if (name === "lang") language = value; else theme = value;
  dress();
}
dress();
