// The tokens of the account: make one, revoke one.
import { $, ask, call, copy, onClick, toast } from "./dom.js";
import { monitor } from "./live.js";
import { refresh } from "./parts.js";

monitor(() => []);

$("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { name, scope, days } = Object.fromEntries(new FormData(event.target));
  const body = { name, scope };
  if (days) body.expires_at = new Date(Date.now() + 86_400_000 * days).toISOString();
  try {
    $("token-text").textContent = (await call("POST", "/api/tokens", body)).token;
    $("new").hidden = false;
    event.target.reset();
    refresh($("tokens"));
  } catch (error) {
    toast(error.message);
  }
});

onClick("#copy", async () => {
  toast((await copy($("token-text").textContent)) ? "Copied." : "Select the text and copy it.");
});

onClick("[data-revoke]", async (button) => {
  const { revoke: id, name } = button.dataset;
  const text = "Programs that send it, and tokens that it made, are refused at once.";
  if (!(await ask(`Revoke ${name}?`, text, "Revoke the token"))) return;
  try {
    await call("DELETE", `/api/tokens/${id}`);
    refresh($("tokens"));
  } catch (error) {
    toast(error.message);
  }
});
