// The sizes that a person has chosen, set before the first paint: a later change would move everything.
for (const [name, sizes] of [
  ["size", ["m", "s", "l", "xl"]], // of a group's pictures
  ["rows", ["dense", "large"]], // of the list of groups
]) {
  let size = "";
  try {
    size = localStorage.getItem(`director.${name}`);
  } catch {
    /* storage is forbidden */
  }
  document.documentElement.dataset[name] = sizes.includes(size) ? size : sizes[0];
}
