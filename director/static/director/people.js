// The accounts: add one, change its role, disable it, make a link for its password.
import { $, ask, call, copy, onClick, toast } from "./dom.js";
import { monitor } from "./live.js";
import { refresh } from "./parts.js";

monitor(() => []);

function showLink(name, link) {
  $("new-name").textContent = name;
  $("link").textContent = link;
  $("new").hidden = false;
}

$("person-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const person = await call(
      "POST",
      "/api/people",
      Object.fromEntries(new FormData(event.target)),
    );
    if (person.password_link) showLink(person.name, person.password_link);
    else toast(`${person.name} is added.`);
    event.target.reset();
    refresh($("accounts"));
  } catch (error) {
    toast(error.message);
  }
});

onClick("#copy", async () => {
  toast((await copy($("link").textContent)) ? "Copied." : "Select the text and copy it.");
});

onClick("[data-link]", async (button) => {
  const name = button.dataset.link;
  try {
    showLink(name, (await call("POST", `/api/people/${name}/password-link`, {})).password_link);
  } catch (error) {
    toast(error.message);
  }
});

// Resolves to whether it is changed.
async function change(name, values) {
  try {
    await call("PATCH", `/api/people/${name}`, values);
  } catch (error) {
    toast(error.message);
    return false;
  }
  refresh($("accounts"));
  return true;
}

onClick("[data-active]", async (button) => {
  const { active: name, now } = button.dataset;
  const text = "Sessions and tokens of the account are refused within seconds. Its groups go on.";
  if (now && !(await ask(`Disable ${name}?`, text, "Disable"))) return;
  await change(name, { is_active: !now });
});

document.addEventListener("change", async (event) => {
  const { dataset, options, value } = event.target;
  if (!dataset.role || (await change(dataset.role, { role: value }))) return;
  event.target.value = [...options].find((one) => one.defaultSelected).value;
});
