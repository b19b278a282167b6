// The size of a group's pictures, set before the first paint: a later change would move all jobs.
{
  let size = "m";
  try {
    size = localStorage.getItem("director.size") || size;
  } catch {
    /* storage is forbidden */
  }
  document.documentElement.dataset.size = ["s", "m", "l", "xl"].includes(size) ? size : "m";
}
