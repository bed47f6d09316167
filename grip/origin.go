package grip

// What an origin needs besides a Publisher.

import (
	"net/http"
	"strings"
)

// IsGrip reports whether a request says that it came through a gateway.
// Anybody can say so: see Verifier and Publisher for what can be believed.
func IsGrip(r *http.Request) bool {
	return r.Header.Get("Grip-Sig") != ""
}

// HasFeature reports whether the gateway a request came through lists a
// feature, such as "link:gone", in Grip-Feature.
func HasFeature(r *http.Request, feature string) bool {
	for _, value := range r.Header["Grip-Feature"] {
		for element := range strings.SplitSeq(value, ",") {
			if strings.Trim(element, space) == feature {
				return true
			}
		}
	}
	return false
}

// Hold asks for an instruction in the headers of the answer that is written
// next, status and body of which the gateway uses as they are:
//
//	err := grip.Hold(w, &grip.Instruction{Hold: grip.HoldStream, Channels: []grip.Channel{{Name: "news"}}})
//	w.Header().Set("Content-Type", "text/event-stream")
//
// The error is ErrNotForHeader if a name cannot be written in a header; Answer
// can.
func Hold(w http.ResponseWriter, in *Instruction) error {
	return in.WriteHeader(w.Header())
}

// Answer writes the whole answer in the JSON form: what the client is to see is
// in.Response.
func Answer(w http.ResponseWriter, in *Instruction) error {
	body, err := in.MarshalJSON()
	if err != nil {
		return err
	}
	rest := Instruction{Next: in.Next, Gone: in.Gone, ExposeHeaders: in.ExposeHeaders}
	if err := rest.WriteHeader(w.Header()); err != nil {
		return err
	}
	w.Header().Set("Content-Type", InstructType)
	w.WriteHeader(http.StatusOK)
	_, err = w.Write(body)
	return err
}
