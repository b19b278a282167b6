// What is opened on a card or in a menu closes by Escape, and a menu also by a click elsewhere or on one of its entries.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  const open =
    event.target.closest?.("details[open]") ||
    document.querySelector(".drop-menu[open], .fold[open]");
  if (!open?.matches(".drop-menu, .fold")) return;
  open.open = false;
  open.querySelector("summary").focus();
});
document.addEventListener("click", ({ target }) => {
  for (const menu of document.querySelectorAll(".drop-menu[open], .card-menu[open]"))
    if (!target.closest("summary") || !menu.contains(target)) menu.open = false;
});
