// The deliveries of events to webhooks, and the replay of one.
import { $, call, onClick, toast } from "./dom.js";
import { monitor } from "./live.js";
import { refresh } from "./parts.js";

monitor(() => []);

onClick("[data-replay]", async (button) => {
  button.disabled = true;
  try {
    await call("POST", `/api/webhooks/deliveries/${button.dataset.replay}/replay`);
    toast("It is sent now.");
    setTimeout(() => refresh($("deliveries")), 2000);
  } catch (error) {
    toast(error.message);
  }
  button.disabled = false;
});
