package zmq

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
)

// A tnetstring (tnetstrings.org) is a value with its length before and its type
// behind it:
//
//	5:hello,            bytes
//	2:42#  3:1.5^       a whole number; one that is not
//	4:true!  0:~        a truth value; nothing
//	8:1:a,1:b,]         a list: its values, one after the other
//	8:1:a,1:1#}         a dictionary: keys, which are bytes, each before its value
//
// In Go these are []byte, int64, float64, bool, nil, []any and dict. Strings are
// written as bytes.

const (
	// tnetDepthMax bounds how deep values may be nested. An item needs five levels.
	tnetDepthMax = 32

	// tnetDigitsMax bounds the digits of a length: more than any message has.
	tnetDigitsMax = 10
)

// errTnetstring is what is wrong with bytes that are no tnetstring; it comes
// wrapped, with the place.
var errTnetstring = errors.New("not a tnetstring")

// dict is a dictionary. Of a key that stands there twice the last value counts,
// as in JSON.
type dict = map[string]any

// readTnetstring reads the one value that data is. Bytes in it are slices of data.
func readTnetstring(data []byte) (any, error) {
	r := tnetReader{data: data}
	value, err := r.value(len(data), 0)
	if err == nil && r.at < len(data) {
		err = r.wrong("%d bytes behind the value", len(data)-r.at)
	}
	if err != nil {
		return nil, err
	}
	return value, nil
}

// tnetReader walks through data.
type tnetReader struct {
	data []byte
	at   int
}

func (r *tnetReader) wrong(format string, args ...any) error {
	return fmt.Errorf("%w: at byte %d: %s", errTnetstring, r.at, fmt.Sprintf(format, args...))
}

// value reads the value that comes next and ends at end or before.
func (r *tnetReader) value(end, depth int) (any, error) {
	if depth >= tnetDepthMax {
		return nil, r.wrong("more than %d levels", tnetDepthMax)
	}
	length, err := r.length(end)
	if err != nil {
		return nil, err
	}
	if length >= end-r.at { // the type needs a byte
		return nil, r.wrong("%d bytes and a type do not fit", length)
	}
	last := r.at + length
	payload := r.data[r.at:last:last]
	switch kind := r.data[last]; kind {
	case ',':
		r.at = last + 1
		return payload, nil
	case '#':
		n, err := strconv.ParseInt(string(payload), 10, 64)
		if err != nil {
			return nil, r.wrong("%.32q is not a whole number of 64 bits", payload)
		}
		r.at = last + 1
		return n, nil
	case '^':
		f, err := strconv.ParseFloat(string(payload), 64)
		if err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
			return nil, r.wrong("%.32q is not a number", payload)
		}
		r.at = last + 1
		return f, nil
	case '!':
		if s := string(payload); s != "true" && s != "false" {
			return nil, r.wrong("%.32q is neither true nor false", payload)
		}
		r.at = last + 1
		return payload[0] == 't', nil
	case '~':
		if length > 0 {
			return nil, r.wrong("nothing is %d bytes long", length)
		}
		r.at = last + 1
		return nil, nil
	case ']':
		list := []any{}
		for r.at < last {
			value, err := r.value(last, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		r.at = last + 1
		return list, nil
	case '}':
		members := dict{}
		for r.at < last {
			key, err := r.value(last, depth+1)
			if err != nil {
				return nil, err
			}
			name, ok := key.([]byte)
			if !ok {
				return nil, r.wrong("a key is not bytes")
			}
			if members[string(name)], err = r.value(last, depth+1); err != nil {
				return nil, err
			}
		}
		r.at = last + 1
		return members, nil
	default:
		return nil, r.wrong("unknown type %q", kind)
	}
}

// length reads the digits and the colon.
func (r *tnetReader) length(end int) (int, error) {
	start, n := r.at, 0
	for ; r.at < end; r.at++ {
		c := r.data[r.at]
		switch digits := r.at - start; {
		case c == ':' && digits > 0:
			r.at++
			return n, nil
		case c < '0' || c > '9':
			return 0, r.wrong("%q where a length was due", c)
		case digits == 1 && n == 0:
			return 0, r.wrong("a length begins with 0")
		case digits == tnetDigitsMax:
			return 0, r.wrong("a length has more than %d digits", tnetDigitsMax)
		}
		n = n*10 + int(c-'0')
	}
	return 0, r.wrong("the end where a length was due")
}

// appendTnetstring writes a value of the types above, or a string, []string or
// int. The keys of a dictionary come in order, so equal values are equal bytes.
func appendTnetstring(dst []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(dst, "0:~"...)
	case []byte:
		return appendTnet(dst, v, ',')
	case string:
		return appendTnet(dst, v, ',')
	case bool:
		return appendTnet(dst, strconv.FormatBool(v), '!')
	case int:
		return appendTnet(dst, strconv.Itoa(v), '#')
	case int64:
		return appendTnet(dst, strconv.FormatInt(v, 10), '#')
	case float64:
		return appendTnet(dst, strconv.FormatFloat(v, 'g', -1, 64), '^')
	case []string:
		var inner []byte
		for _, s := range v {
			inner = appendTnetstring(inner, s)
		}
		return appendTnet(dst, inner, ']')
	case []any:
		var inner []byte
		for _, element := range v {
			inner = appendTnetstring(inner, element)
		}
		return appendTnet(dst, inner, ']')
	case dict:
		var inner []byte
		for _, key := range slices.Sorted(maps.Keys(v)) {
			inner = appendTnetstring(appendTnetstring(inner, key), v[key])
		}
		return appendTnet(dst, inner, '}')
	}
	panic(fmt.Sprintf("zmq: a %T has no tnetstring", value))
}

func appendTnet[T []byte | string](dst []byte, payload T, kind byte) []byte {
	dst = append(strconv.AppendInt(dst, int64(len(payload)), 10), ':')
	return append(append(dst, payload...), kind)
}
