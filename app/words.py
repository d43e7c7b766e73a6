"""What the command line says to operators: English, or Chinese where the terminal's locale is Chinese.

English text is its own key, so a sentence is read where it is said; `ZH` holds the other language. A test finds every text that is
said and not translated. Mistakes in files, settings and calls stay English: they name fields and variables, which are English.
"""

import os
from typing import Any, Final, Literal


def language() -> Literal["en", "zh"]:
    """Of the terminal: the first of LC_ALL, LC_MESSAGES and LANG that is set decides."""
    chosen = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := os.environ.get(name))), "")
    return "zh" if chosen.lower().startswith("zh") else "en"


def say(text: str, /, **values: Any) -> str:
    """`text` in the reader's language with its places filled in."""
    chosen = ZH.get(text, text) if language() == "zh" else text
    return chosen.format(**values) if values else chosen


def text_of(message: Any) -> str:
    """A message that carries both languages ({"en": .., "zh": ..}) in the reader's; the other one where that is missing."""
    found = message if isinstance(message, dict) else {}
    mine, other = ("zh", "en") if language() == "zh" else ("en", "zh")
    return str(found.get(mine) or found.get(other) or "")


ZH: Final[dict[str, str]] = {
    # parts of the service
    "broker": "消息代理",
    "core": "核心",
    "web": "网页",
    "notify": "通知",
    "fleet": "设备群",
    "service": "服务",
    # the demo
    "A nursery with {count} simulated devices, living {speed:g} times as fast as the clock.": "一座有 {count} 台仿真设备的育苗场，运行速度为时钟的 {speed:g} 倍。",
    "Starting": "正在启动",
    "Fieldloom is ready after {seconds:.1f} s. Log in once, within {minutes} minutes:": "Fieldloom 已就绪，用时 {seconds:.1f} 秒。请在 {minutes} 分钟内用此链接登录（仅限一次）：",
    "Data: {data}": "数据目录：{data}",
    "Ctrl-C stops everything. Another login link: {command} login": "按 Ctrl-C 停止全部。再取登录链接：{command} login",
    "Port {wanted} is in use; this demo takes {port}.": "端口 {wanted} 已被占用，演示改用 {port}。",
    "Fieldloom has stopped; what it learned is kept.": "Fieldloom 已停止，数据已保留。",
    "{part} ended (code {code}) and is started again: {words}": "{part}已退出（代码 {code}），正在重新启动：{words}",
    "Fieldloom serves at {address}. `fieldloom login` prints a link to log in.": "Fieldloom 正在 {address} 提供服务。用 `fieldloom login` 取登录链接。",
    # what flows
    "{messages:,.1f} messages/s   {samples:,.1f} samples/s   {alarms} alarms   {commands} commands": "{messages:,.1f} 条消息/秒   {samples:,.1f} 个采样值/秒   {alarms} 条报警   {commands} 条命令",
    "{received:,} messages received = {stored:,} stored + {duplicate:,} duplicate + {rejected:,} rejected + {pending:,} pending": "收到消息 {received:,} = 已存 {stored:,} + 重复 {duplicate:,} + 拒收 {rejected:,} + 待处理 {pending:,}",
    "The core has written nothing for {seconds:.0f} s: {reason}": "核心已 {seconds:.0f} 秒没有写入：{reason}",
    "The core has written nothing for {seconds:.0f} s; its reason stands in {log}.": "核心已 {seconds:.0f} 秒没有写入；原因见 {log}。",
    # what happened
    "core began, epoch {epoch}": "核心启动，纪元 {epoch}",
    "configuration in force, {sha256}": "配置已生效，{sha256}",
    "{author} changes the configuration": "{author} 修改配置",
    "the wall clock jumped by {seconds:+.1f} s": "系统时钟跳变 {seconds:+.1f} 秒",
    "online": "上线",
    "offline": "离线",
    "connected to the broker": "已连接消息代理",
    "lost the broker": "与消息代理的连接中断",
    "the broker's backlog is read": "消息代理的积压已读完",
    "a new build decides otherwise:": "新版本得出不同的决策：",
    "the disk is nearly full: a follower was cut off": "磁盘将满：已放弃落后的读取进程",
    "blind: what came meanwhile is being read, nothing is moved": "盲区：正在补读积压数据，不下发动作",
    "sees again": "恢复可见",
    "REJECTED {reason}: {detail}": "拒收 {reason}：{detail}",
    "answers": "答复",
    "request refused: {reason}": "请求被拒绝：{reason}",
    "CLOCK WRONG: {length} {skew}; its samples are kept and move nothing": "时钟错误：{skew} {length}；其采样值保留但不触发动作",
    "fast": "快",
    "slow": "慢",
    "clock is right again": "时钟恢复正常",
    "FAULT: {error}": "故障：{error}",
    "ALARM {priority} {happened}: {text} [{rule}]": "报警 {priority} {happened}：{text} [{rule}]",
    "raised": "触发",
    "cleared": "解除",
    "cleared, not yet acknowledged": "已恢复待确认",
    "acknowledged": "已确认",
    "shelved": "搁置",
    "back from the shelf": "取消搁置",
    "reset": "复位",
    "out of service": "停用",
    "in service again": "恢复启用",
    "ended: its rule was removed": "结束：规则已移除",
    "requested": "已提交",
    "authorised": "已授权",
    "sent": "已下发",
    "accepted": "设备已接受",
    "confirmed": "反馈到位",
    "refused": "被拒绝",
    "expired": "已过期",
    "superseded": "被取代",
    "no answer": "无应答",
    "in safe position": "已回安全位",
    " (measured {value})": "（实测 {value}）",
    "nothing": "无",
    "on": "开",
    "off": "关",
    " s": " 秒",
    " min": " 分钟",
    " h": " 小时",
    " days": " 天",
    # status
    "data": "数据目录",
    "journal": "日志",
    "position {position:,}, epoch {epoch}": "位置 {position:,}，纪元 {epoch}",
    "runs, wrote {seconds:.1f} s ago": "运行中，{seconds:.1f} 秒前写入",
    "has written nothing for {length}; see `fieldloom doctor`": "已 {length}没有写入；请运行 `fieldloom doctor`",
    "this machine's clock is {length} behind the journal; set the time": "本机时钟比日志慢 {length}；请校准时间",
    "site": "场地",
    "origin": "来源",
    "devices": "设备",
    "silent": "静默",
    "unacknowledged": "未确认",
    "received = stored + duplicate + rejected + pending": "收到 = 已存 + 重复 + 拒收 + 待处理",
    "holds": "成立",
    "DOES NOT HOLD; please report this": "不成立；请报告此缺陷",
    "messages": "消息",
    "samples": "采样值",
    "received": "收到",
    "stored": "已存",
    "duplicate": "重复",
    "rejected": "拒收",
    "pending": "待处理",
    "Rejected messages and values": "拒收的消息和数值",
    "reason": "原因",
    "count": "次数",
    "newest": "最近一例",
    "Stored, but with a doubt": "已存但存疑",
    "rows that came late or as backfill": "迟到或补传的行",
    "rows from the future": "时间超前的行",
    "sequence numbers missing": "缺失的序号",
    "repeats with another value (the first stays)": "值不同的重复（保留首个）",
    "transactions that a new build decides otherwise, from position {first:,} on": "新版本得出不同决策的事务（自位置 {first:,} 起）",
    "devices whose clock is wrong": "时钟错误的设备",
    # notifications
    "Notifications": "通知",
    "of the last day": "最近一天",
    "delivered": "已送达",
    "waiting": "等待中",
    "failed": "失败",
    "passed": "通过",
    "channel {name}: {count} failures in a row: {error}": "通道 {name}：连续失败 {count} 次：{error}",
    "newest test of the alarm path, {age} ago: {state}, {detail}": "最近一次报警通道自检（{age}前）：{state}，{detail}",
    "no notify.yaml: alarms are told in the log only": "没有 notify.yaml：报警只写入日志",
    "nothing here: no alarm was told yet": "暂无记录：尚未发出过报警通知",
    "nothing here: everything arrived": "暂无记录：全部已送达",
    "after": "延时",
    "who": "通知对象",
    "over": "通道",
    "all": "全部",
    "state": "状态",
    "tries": "尝试次数",
    "error": "错误",
    "test": "自检",
    "raise": "触发",
    "repeat": "重复",
    "clear": "解除",
    # history
    "time ({zone})": "时间（{zone}）",
    "no sample in the last {length}": "最近 {length} 内没有采样值",
    "value": "值",
    "quality": "质量",
    "reasons": "原因标记",
    "min": "最小",
    "max": "最大",
    "mean": "平均",
    "first": "首个",
    "last": "末个",
    "bad": "坏值",
    # the lab
    "measured": "实测",
    "point": "测点",
    "least": "最小值",
    "greatest": "最大值",
    "unit": "单位",
    "alarms": "报警",
    "commands": "命令",
    "none": "无",
    "{hours:g} h in {took:.1f} s: {entries:,} journal entries, {stored:,} samples stored, {rejected:,} rejected, {kills} kills": "{took:.1f} 秒运行 {hours:g} 小时：日志 {entries:,} 条，采样值已存 {stored:,}，拒收 {rejected:,}，杀死 {kills} 次",
    "{count} transactions were decided otherwise after a kill": "{count} 个事务在杀死后得出了不同的决策",
    # configuration
    "checking {what}": "正在检查 {what}",
    "putting {site} in force": "正在使 {site} 生效",
    # scenarios of rules
    "running {count} scenarios": "正在运行 {count} 个场景",
    "{passed} of {total} scenarios pass, {seconds:.1f} s": "{total} 个场景通过 {passed} 个，用时 {seconds:.1f} 秒",
    "changing figures of rules": "正在改动规则中的数值",
    "{count} changed figures, {alive} that no scenario notices": "改动 {count} 个数值，{alive} 个没有场景察觉",
    "there are no scenarios here; docs/rules-testing.md shows how they are written": "这里没有场景；写法见 docs/rules-testing.md",
    # recordings
    "Stopped. What was sent is stored; play it again for the rest: nothing is stored twice.": "已停止。已发送的数据已存入；再次播放即可补完，不会重复存储。",
    "{device}: {rows:,} rows, {cells:,} cells": "{device}：{rows:,} 行，{cells:,} 个单元格",
    "missing (declared codes)": "缺失（约定的代码）",
    "unreadable cells": "无法读取的单元格",
    "of rows without a time": "其中没有时间的行",
    "stored now": "本次存入",
    "already there": "原已存在",
    "changed (the first value stays)": "值有变化（保留首个）",
    "stored with a doubt": "存入但存疑",
    "LOST": "丢失",
    "unreadable": "无法读取",
    "... and {count:,} more": "……另有 {count:,} 处",
    "The configuration of site {site} was put in force.": "场地 {site} 的配置已生效。",
    "{device}: {count:,} alarms on the data's own clock": "{device}：按数据自身时间有 {count:,} 次报警",
    "alarm": "报警",
    "priority": "优先级",
    "the newest {count}:": "最近 {count} 次：",
    "Lane {site}: {decisions:,} decisions, {alarms:,} alarms raised by all its devices": "通道 {site}：{decisions:,} 条决策，全部设备共触发 {alarms:,} 次报警",
    "{device}: {sent:,} samples sent, {journaled:,} journaled, {rejected:,} rejected": "{device}：已发 {sent:,} 个采样值，入日志 {journaled:,}，拒收 {rejected:,}",
}
