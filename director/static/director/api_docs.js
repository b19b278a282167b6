// Shows the OpenAPI document by Swagger UI, which the page has loaded before.
import "./status.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();

window.SwaggerUIBundle({
  url: "/api/schema?format=json",
  dom_id: "#api-docs",
  deepLinking: true,
  docExpansion: "none",
  presets: [window.SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  onComplete() {
    document.querySelector("main main").role = "group"; // a page has one landmark of this kind
  },
});
