package main

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
)

// xmlAPI adds what fake-gcs-server lacks of the store's XML API, by which deltalake reaches it: uploads,
// copies and their preconditions, and listings after a name. It answers by the JSON API.
type xmlAPI struct{ json http.Handler }

var xmlPath = regexp.MustCompile(`^/([^/]+)(?:/(.+))?$`)

func (a xmlAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	found := xmlPath.FindStringSubmatch(r.URL.EscapedPath())
	query := r.URL.Query()
	switch {
	case found == nil || query.Get("uploadType") != "" || query.Get("upload_id") != "":
		a.json.ServeHTTP(w, r)
	case r.Method == http.MethodPut && found[2] != "" && !reserved[found[1]]:
		a.put(w, r, unescape(found[1]), unescape(found[2]))
	case r.Method == http.MethodGet && found[2] == "" && query.Get("list-type") == "2":
		a.list(w, unescape(found[1]), query)
	default:
		a.json.ServeHTTP(w, r)
	}
}

var reserved = map[string]bool{"storage": true, "upload": true, "download": true, "batch": true, "b": true}

func unescape(text string) string {
	plain, err := url.PathUnescape(text)
	if err != nil {
		return text
	}
	return plain
}

func (a xmlAPI) put(w http.ResponseWriter, r *http.Request, bucket, name string) {
	query := url.Values{}
	if generation := r.Header.Get("X-Goog-If-Generation-Match"); generation != "" {
		query.Set("ifGenerationMatch", generation)
	}
	path := "/upload/storage/v1/b/" + url.PathEscape(bucket) + "/o"
	body := io.Reader(r.Body)
	if source := r.Header.Get("X-Goog-Copy-Source"); source != "" {
		from, object, _ := strings.Cut(strings.TrimPrefix(unescape(source), "/"), "/")
		path = fmt.Sprintf("/storage/v1/b/%s/o/%s/rewriteTo/b/%s/o/%s", url.PathEscape(from),
			url.PathEscape(object), url.PathEscape(bucket), url.PathEscape(name))
		body = nil
	} else {
		query.Set("uploadType", "media")
		query.Set("name", name)
	}
	status, answer := a.call(http.MethodPost, path+"?"+query.Encode(), body)
	if status != http.StatusOK {
		w.WriteHeader(status)
		return
	}
	var written struct {
		Etag       string
		Generation json.Number
		Resource   *struct {
			Etag       string
			Generation json.Number
		}
	}
	json.Unmarshal(answer, &written)
	if written.Resource != nil {
		written.Etag, written.Generation = written.Resource.Etag, written.Resource.Generation
	}
	w.Header().Set("ETag", fmt.Sprintf("%q", written.Etag))
	w.Header().Set("X-Goog-Generation", written.Generation.String())
}

type xmlObject struct {
	Key, LastModified, ETag string
	Size                    int64
}

type xmlPrefix struct{ Prefix string }

type xmlListing struct {
	XMLName        xml.Name `xml:"ListBucketResult"`
	Contents       []xmlObject
	CommonPrefixes []xmlPrefix
}

func (a xmlAPI) list(w http.ResponseWriter, bucket string, query url.Values) {
	wanted := url.Values{"prefix": query["prefix"], "delimiter": query["delimiter"]}
	status, answer := a.call(http.MethodGet, "/storage/v1/b/"+url.PathEscape(bucket)+"/o?"+wanted.Encode(), nil)
	if status != http.StatusOK {
		w.WriteHeader(status)
		return
	}
	var found struct {
		Items []struct {
			Name, Updated, Etag string
			Size                int64 `json:",string"`
		}
		Prefixes []string
	}
	json.Unmarshal(answer, &found)
	listing := xmlListing{}
	for _, one := range found.Items {
		if one.Name > query.Get("start-after") {
			listing.Contents = append(listing.Contents, xmlObject{one.Name, one.Updated, one.Etag, one.Size})
		}
	}
	for _, one := range found.Prefixes {
		listing.CommonPrefixes = append(listing.CommonPrefixes, xmlPrefix{one})
	}
	w.Header().Set("Content-Type", "application/xml")
	xml.NewEncoder(w).Encode(listing)
}

func (a xmlAPI) call(method, target string, body io.Reader) (int, []byte) {
	recorder := httptest.NewRecorder()
	a.json.ServeHTTP(recorder, httptest.NewRequest(method, target, body))
	return recorder.Code, recorder.Body.Bytes()
}
