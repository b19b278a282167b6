// The page of one backend: what it does, live; its models once.
import { $, onClick, toast } from "./dom.js";
import { act } from "./holds.js";
import { refresh } from "./parts.js";
import { follow } from "./working.js";
import "./rename.js";

const again = follow("backend");
refresh($("models"));

onClick("[data-act]", async (button) => {
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
