// Deleting groups: says first which jobs and files go.
import { ask, call, counted, sendAll, sizeText, toast } from "./dom.js";

// Resolves to whether a group was deleted.
export async function deleteGroups(ids) {
  const found = await Promise.allSettled(
    ids.map((id) => call("GET", `/api/job-groups/${id}/delete`)),
  );
  const refused = found.filter((one) => one.status === "rejected");
  const gone = found.filter((one) => one.status === "fulfilled").map((one) => one.value);
  if (!gone.length) {
    toast(refused[0].reason.message);
    return false;
  }
  const sum = (name) => gone.reduce((total, one) => total + one[name], 0);
  const files = sum("files")
    ? ` and ${counted(sum("files"), "stored file")} (${sizeText(sum("bytes"))})`
    : "";
  const starred = sum("starred") ? `, also ${counted(sum("starred"), "job")} with a star` : "";
  const stay = gone.some((one) => one.kept_at_backends)
    ? " Files in the folders of the backends stay there."
    : "";
  const others = refused.length
    ? ` ${counted(refused.length, "group stays", "groups stay")}: ${refused[0].reason.message}`
    : "";
  const which = gone.length > 1 ? `these ${gone.length} groups` : "this group";
  const yes = await ask(
    `Delete ${which}?`,
    `${counted(sum("jobs"), "job")}${files} will be deleted${starred}. This cannot be undone.${stay}${others}`,
    gone.length > 1 ? "Delete the groups" : "Delete the group",
    "Keep",
  );
  if (!yes) return false;
  const may = ids.filter((_, at) => found[at].status === "fulfilled");
  const requests = may.map((id) => call("POST", `/api/job-groups/${id}/delete`, {}));
  return (
    (await sendAll(
      requests,
      (failed) => `${counted(failed, "group")} could not be deleted`,
      `${counted(may.length, "group")} deleted.`,
    )) < may.length
  );
}
