// The page of one backend: what it does, live; its models once.
import { $, call, onClick, toast } from "./dom.js";
import { act } from "./holds.js";
import { refresh } from "./parts.js";
import { follow } from "./working.js";
import "./rename.js";

const again = follow("backend");
refresh($("models"));

addEventListener("submit", async (event) => {
  if (event.target.id !== "hours") return;
  event.preventDefault();
  const { hours, time_zone } = event.target.elements;
  const { backend } = event.target.closest("[data-backend]").dataset;
  try {
    await call("PATCH", `/api/backends/${encodeURIComponent(backend)}`, {
      hours: hours.value.trim(),
      time_zone: time_zone.value.trim(),
    });
    toast("The hours are set.");
    again();
  } catch (error) {
    toast(error.errors?.[0]?.message || error.message);
  }
});

onClick("[data-act]", async (button) => {
  if (button.dataset.act === "hours") return;
  const result = await act(
    button.dataset.act,
    [button.closest("[data-backend]").dataset],
    button.dataset,
  );
  if (!result) return;
  if (result.failed.length) toast(result.failed[0].message);
  else if (button.dataset.act === "remove") {
    location.href = "/backends";
    return;
  }
  again();
});
