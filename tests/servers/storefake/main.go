// storefake is a test server: Google Cloud Storage in memory, or a proxy before another store, with
// faults on request.
//
//	storefake -addr 127.0.0.1:0                                  Google Cloud Storage
//	storefake -addr 127.0.0.1:0 -upstream http://127.0.0.1:9000  a proxy
//	storefake -rtt 50ms -rate 400e6                              a store far away
//
// It prints the address that it listens on. The store is fake-gcs-server, used as a library; what it
// lacks is added here: generation preconditions on every verb but uploads, which have them, and the part
// of the XML API that deltalake uses.
//
// A fault is a rule: PUT /_fault {"match": "^POST /upload/", "status": 503, "count": 2}. The first rule
// that matches "METHOD /path?query" and has not been spent answers in the store's place; DELETE /_fault
// clears all. With "after" the store does its work first and only its answer is lost; with "reset" the
// connection breaks instead of an answer; with "cut" the answer breaks off after so many bytes; with none
// of these and no "status" the store answers as ever, and is only counted.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"sync"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

type rule struct {
	Match  string `json:"match"`
	Status int    `json:"status"`
	Count  int    `json:"count"`
	After  bool   `json:"after"`
	Reset  bool   `json:"reset"`
	Cut    int    `json:"cut"`
	Hits   int    `json:"hits"`
	expr   *regexp.Regexp
}

// faulty answers in the place of a store where a rule says so.
type faulty struct {
	mutex sync.Mutex
	rules []*rule
	store http.Handler
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/_fault" {
		f.configure(w, r)
		return
	}
	hit := f.take(r.Method + " " + r.URL.RequestURI())
	if hit == nil || hit.Status == 0 && !hit.Reset && hit.Cut == 0 {
		f.store.ServeHTTP(w, r)
		return
	}
	if hit.After || hit.Cut > 0 {
		recorder := httptest.NewRecorder()
		f.store.ServeHTTP(recorder, r)
		if hit.Cut > 0 && recorder.Body.Len() > hit.Cut {
			for name, values := range recorder.Header() {
				w.Header()[name] = values
			}
			w.Header().Set("Content-Length", fmt.Sprint(recorder.Body.Len()))
			w.WriteHeader(recorder.Code)
			w.Write(recorder.Body.Bytes()[:hit.Cut])
			panic(http.ErrAbortHandler)
		}
	}
	if hit.Reset {
		panic(http.ErrAbortHandler)
	}
	http.Error(w, fmt.Sprintf(`{"error":{"code":%d,"message":"injected"}}`, hit.Status), hit.Status)
}

func (f *faulty) take(request string) *rule {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	for _, candidate := range f.rules {
		if candidate.Hits < candidate.Count && candidate.expr.MatchString(request) {
			candidate.Hits++
			return candidate
		}
	}
	return nil
}

func (f *faulty) configure(w http.ResponseWriter, r *http.Request) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	switch r.Method {
	case http.MethodPut:
		added := &rule{Count: 1 << 30}
		err := json.NewDecoder(r.Body).Decode(added)
		if err == nil {
			added.expr, err = regexp.Compile(added.Match)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.rules = append(f.rules, added)
	case http.MethodDelete:
		f.rules = nil
	}
	json.NewEncoder(w).Encode(f.rules)
}

// conditional adds the preconditions that fake-gcs-server does not check.
type conditional struct {
	mutex sync.Mutex
	store http.Handler
}

var (
	objectPath  = regexp.MustCompile(`^(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)$`)
	rewritePath = regexp.MustCompile(`^/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)$`)
)

func (c *conditional) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		c.mutex.Lock()
		defer c.mutex.Unlock()
	}
	query := r.URL.Query()
	var met bool
	if found := rewritePath.FindStringSubmatch(r.URL.EscapedPath()); found != nil {
		met = c.meets(found[1], found[2], query.Get("ifSourceGenerationMatch")) &&
			c.meets(found[3], found[4], query.Get("ifGenerationMatch"))
	} else {
		found := objectPath.FindStringSubmatch(r.URL.EscapedPath())
		met = found == nil || c.meets(found[1], found[2], query.Get("ifGenerationMatch"))
	}
	if !met {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusPreconditionFailed)
		io.WriteString(w, `{"error":{"code":412,"message":"conditionNotMet"}}`)
		return
	}
	c.store.ServeHTTP(w, r)
}

// meets reports whether an object has the wanted generation, if one is wanted. It is true for an object
// that does not exist: the store itself answers that.
func (c *conditional) meets(bucket, object, wanted string) bool {
	if wanted == "" {
		return true
	}
	current := c.generation(bucket, object)
	return current == "" || current == wanted
}

func (c *conditional) generation(bucket, object string) string {
	recorder := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodGet, "/storage/v1/b/"+bucket+"/o/"+object, nil)
	c.store.ServeHTTP(recorder, request)
	var metadata struct {
		Generation json.Number `json:"generation"`
	}
	if recorder.Code != http.StatusOK || json.Unmarshal(recorder.Body.Bytes(), &metadata) != nil {
		return ""
	}
	return metadata.Generation.String()
}

func main() {
	address := flag.String("addr", "127.0.0.1:0", "where to listen")
	upstream := flag.String("upstream", "", "stand before this URL instead of serving a store")
	buckets := flag.String("buckets", "", "buckets to make, separated by commas")
	roundTrip := flag.Duration("rtt", 0, "delay of each answer")
	rate := flag.Float64("rate", 0, "bits per second and direction of each connection; 0 for any")
	flag.Parse()

	listener, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	root := "http://" + listener.Addr().String()
	var store http.Handler
	if *upstream == "" {
		store = xmlAPI{&conditional{store: memory(listener.Addr().String(), root, *buckets)}}
	} else {
		store = proxy(*upstream)
	}
	fmt.Println(root)
	if *roundTrip > 0 || *rate > 0 {
		listener = distant{listener, *roundTrip, *rate / 8}
	}
	log.Fatal(http.Serve(listener, &faulty{store: store}))
}

func memory(host, root, buckets string) http.Handler {
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{
		NoListener: true, Scheme: "http", PublicHost: host, ExternalURL: root,
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range strings.Split(buckets, ",") {
		if name != "" {
			server.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: name})
		}
	}
	return server.HTTPHandler()
}

// proxy keeps the Host header, so that signed requests stay valid.
func proxy(upstream string) http.Handler {
	target, err := url.Parse(upstream)
	if err != nil {
		log.Fatal(err)
	}
	return &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(target)
		p.Out.Host = p.In.Host
	}}
}
