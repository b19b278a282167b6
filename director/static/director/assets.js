// The uploaded files, and the deletion of one.
import { ask, call, onClick, toast } from "./dom.js";
import { monitor } from "./live.js";

monitor(() => []);

onClick("[data-delete]", async (button) => {
  const { delete: id, name } = button.dataset;
  if (
    !(await ask(
      `Delete ${name}?`,
      "Jobs that have ended cannot be retried with it. Files at the backends stay.",
      "Delete the file",
    ))
  )
    return;
  try {
    await call("DELETE", `/api/assets/${id}`);
    toast(`${name} is deleted.`);
  } catch (error) {
    toast(error.message);
    if (error.answer?.code !== "asset_not_found") return;
  }
  button.closest("tr").remove();
});
