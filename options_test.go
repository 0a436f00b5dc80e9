package websocket

import (
	"net/http"
	"reflect"
	"testing"
	"time"
)

// TestOptionsShared checks that connections with the same options share a copy of them, and that
// others do not, whichever field differs.
func TestOptionsShared(t *testing.T) { // not parallel: others make copies
	whole := func() *Options {
		return &Options{
			MaxMessage: 1, Protocols: []string{"p"}, Deflate: &Deflate{Level: 1}, Origins: []string{"o"},
			Header: http.Header{"X": {"x"}}, Client: true, Extensions: "e", HTTPClient: http.DefaultClient,
			HandshakeTimeout: time.Second, CloseTimeout: time.Second, PingInterval: time.Second, MaxQueue: 1,
		}
	}
	for _, o := range []func() *Options{whole, func() *Options { return new(Options) }} {
		a := o().clone()
		if b := o().clone(); a != b || !reflect.DeepEqual(b, o()) {
			t.Errorf("%+v is not shared, but %+v", a, b)
		}
	}
	for field, v := range reflect.ValueOf(whole()).Elem().Fields() {
		o := whole()
		f := reflect.ValueOf(o).Elem().FieldByIndex(field.Index)
		if v.IsZero() {
			t.Errorf("%s is not set", field.Name)
		}
		f.SetZero()
		if whole().clone() == o.clone() {
			t.Errorf("options that differ in %s are shared", field.Name)
		}
	}
	none := &Options{Origins: []string{}} // allows no pages
	if new(Options).clone() == none.clone() {
		t.Error("no origins are taken for all")
	}
	for name, change := range map[string]func(*Options){
		"Deflate": func(o *Options) { o.Deflate.Level++ },
		"Header":  func(o *Options) { o.Header["X"][0] = "y" },
		"Origins": func(o *Options) { o.Origins[0] = "other" },
	} {
		o := whole()
		before := o.clone()
		change(o)
		if after := o.clone(); before == after || !reflect.DeepEqual(before, whole()) {
			t.Errorf("a change within %s changes the copy", name)
		}
	}
}
