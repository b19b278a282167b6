// A name that is changed where it stands: Enter or another place keeps it, Escape does not.
import { call, make, onClick, toast } from "./dom.js";

onClick("[data-rename]", (button) => edit(button, button.closest("[data-backend]").dataset));

function edit(button, data) {
  const shown = button.previousElementSibling;
  const input = make("input", {
    value: data.name,
    maxLength: 200,
    className: "renaming",
    ariaLabel: `Name of ${data.name}`,
  });
  shown.hidden = button.hidden = true;
  button.after(input);
  input.focus();
  input.select();
  const close = () => {
    input.remove();
    shown.hidden = button.hidden = false;
  };
  let isOver = false;
  async function end(keep) {
    if (isOver) return;
    isOver = true;
    const name = input.value.trim();
    if (keep && name && name !== data.name) {
      try {
        await call("PATCH", `/api/backends/${encodeURIComponent(data.backend)}`, { name });
        shown.textContent = data.name = name;
      } catch (error) {
        toast(error.errors?.[0]?.message || error.message);
      }
    }
    close();
  }
  input.onkeydown = (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    end(event.key === "Enter").then(() => button.focus());
  };
  input.onblur = () => end(true);
}
