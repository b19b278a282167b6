// An extension of ComfyUI's editor at the ComfyUI listener: its way to the pages of the Director.
import { app } from "../../scripts/app.js";

const open = (path) => () => window.open(path, "_blank", "noopener");

app.registerExtension({
  name: "Director",
  commands: [
    { id: "Director.Job", label: "My newest job", function: open("/director/newest") },
    { id: "Director.Groups", label: "All groups", function: open("/director") },
  ],
  menuCommands: [{ path: ["Director"], commands: ["Director.Job", "Director.Groups"] }],
  aboutPageBadges: [{ label: "The Director", url: "/director", icon: "pi pi-server" }],
});
