// Changes the token after # for a session. The token never stands in an address that is sent or logged.
"use strict";

const said = document.getElementById("said");

async function login(token) {
  say(said, word("working"));
  let answer;
  try {
    answer = await fetch("/api/v1/session", {
      method: "POST", headers: { "Content-Type": "application/json", "X-Fieldloom": "1" }, body: JSON.stringify({ token }),
    });
  } catch {
    say(said, word("noService"));
    return;
  }
  if (answer.ok) location.replace("/");
  else if (answer.status === 429) say(said, word("tooMany", { n: answer.headers.get("Retry-After") }));
  else say(said, word(answer.status >= 500 ? "noService" : "wrong"));
}

document.getElementById("language").addEventListener("click", () => keep("lang", language === "zh" ? "en" : "zh"));
document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  login(document.getElementById("token").value.trim());
});
dress();
const given = location.hash.slice(1);
if (given) {
  history.replaceState(null, "", "/login");
  login(given);
}
