// The grid of a sweep: another value of a selector is shown in place, and stays in the address.
import { $ } from "./dom.js";
import { refresh } from "./parts.js";

function show(form) {
  const chosen = new URLSearchParams(new FormData(form));
  for (const part of [$("head"), $("cards")]) {
    part.dataset.part = `${part.dataset.part.split("?")[0]}?${chosen}`;
    refresh(part);
  }
  history.replaceState(null, "", `?${chosen}`);
}

document.addEventListener("change", ({ target }) => {
  if (target.form?.id === "axes") show(target.form);
});

// A link to a job that another value of a selector shows, or another page.
const job = location.hash.slice(1);
const query = new URLSearchParams(location.search);
if (job.startsWith("j_") && !$(job) && !query.has("job")) {
  query.set("job", job);
  location.replace(`?${query}#${job}`);
}
