// A page that shows nothing live but the line at the bottom.
import "./dom.js";
import { monitor } from "./live.js";

monitor(() => []);
